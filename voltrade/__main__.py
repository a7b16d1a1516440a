"""`python -m voltrade COMMAND`: the venue, the engine, and what can be done with a run."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from voltrade.ctl import ACTIONS, ask, running
from voltrade.errors import SessionError, VoltradeError


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; return its exit status."""
    given = sys.argv[1:] if argv is None else list(argv)
    if given[:1] == ["venue"]:
        from voltrade.exchange import venue

        return venue.main(given[1:])
    arguments = _parser().parse_args(given)
    try:
        status: int = arguments.do(arguments)
    except VoltradeError as error:
        print(f"{arguments.command}: {error}", file=sys.stderr)
        return 2
    return status


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m voltrade", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    commands.add_parser("venue", help="run a simulated Binance USD-M Futures server on loopback", add_help=False)
    for name, do, words in (
        ("run", _run, "run the engine process of a session whose folder holds run.json (notebooks do this)"),
        ("replay", _replay, "run a session again from its journal and compare decision by decision"),
        ("verify", _verify, "check that nothing in a run's journal, or its copy of a rule file, was altered"),
    ):
        command = commands.add_parser(name, help=words, description=words)
        command.add_argument("run", type=Path, metavar="RUN", help="folder of a run, such as runs/demo")
        command.set_defaults(do=do)
    control = commands.add_parser(
        "ctl",
        help="look at or steer a running session",
        description="Look at or steer a running session; what is ordered stands in its journal with the reason.",
    )
    control.add_argument("action", choices=ACTIONS)
    control.add_argument("run", type=Path, nargs="?", metavar="RUN", help="folder of a run; the one that is running")
    control.add_argument("--reason", default="", help="why; kept in the journal")
    control.set_defaults(do=_ctl)
    return parser


def _ctl(arguments: argparse.Namespace) -> int:
    run = arguments.run
    if run is None:
        found = running(Path("runs"))
        if len(found) != 1:
            raise SessionError(f"run: name one; running under runs/ are: {[path.name for path in found]}")
        [run] = found
    answer = ask(run, {"op": arguments.action, "reason": arguments.reason})
    for name, value in answer.items():
        print(f"{name:>10}  {value}")
    return 0


def _run(arguments: argparse.Namespace) -> int:
    from voltrade import engine

    return engine.run(arguments.run)


def _replay(arguments: argparse.Namespace) -> int:
    from voltrade.replay import replay

    result = replay(_journal_of(arguments.run))
    for line in result.shown:
        print(line)
    print(f"{result.events} events, {result.outputs} bars, commands and notes: {result.differences} differences")
    return 1 if result.differences else 0


def _verify(arguments: argparse.Namespace) -> int:
    from voltrade.journal import verify
    from voltrade.replay import check_rule

    path = _journal_of(arguments.run)
    result = verify(path)
    if not result.ok:
        print(f"row {result.bad_seq}: {result.rule}")
        return 1
    check_rule(path)
    print(f"{result.seq} rows, nothing altered; head {result.head}")
    return 0


def _journal_of(run: Path) -> Path:
    return run / "journal.db" if run.is_dir() else run


if __name__ == "__main__":
    sys.exit(main())
