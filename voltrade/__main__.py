"""`python -m voltrade COMMAND`: commands for the store, the venue, the engine and runs."""

from __future__ import annotations

import argparse
import ast
import asyncio
import io
import os
import sys
from collections.abc import Sequence
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, BinaryIO, TypeAlias, cast

from voltrade.config import Config
from voltrade.engine.authorisation import authorise, left_out
from voltrade.engine.checks import told
from voltrade.engine.ctl import ACTIONS, ask, identity, rows_of, running
from voltrade.errors import ConfigError, SessionError, VoltradeError
from voltrade.exchange.credentials import Credentials
from voltrade.model import printable
from voltrade.runs.run_file import JOURNAL, RECORD, can_be_resumed, release
from voltrade.strategy.rule_file import load_rule, read_parameters

Commands: TypeAlias = "argparse._SubParsersAction[argparse.ArgumentParser]"

_EXIT_STATUS = (
    "Exit status: 0 where nothing is wrong, as far as the last line says; 1 where something was altered, cut off or "
    "lost; 2 where there is no run, or none that can be read."
)


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; return its exit status."""
    given = sys.argv[1:] if argv is None else list(argv)
    if given[:1] == ["engine"] and len(given) == 2:  # as `voltrade.engine.engine_process`, which a guardian starts
        from voltrade.engine import engine_process

        return engine_process.run(Path(given[1]))
    if given[:1] == ["venue"]:
        from voltrade.venue import command as venue_command

        return venue_command.main(given[1:])
    if given[:1] == ["data"]:
        from voltrade.data import commands as data_commands

        return data_commands.main(given[1:])
    # The run may also follow the options.
    is_ctl = given[:1] == ["ctl"]
    arguments = _ctl_parser().parse_intermixed_args(given[1:]) if is_ctl else _parser().parse_args(given)
    try:
        status: int = arguments.do(arguments)
    except VoltradeError as error:
        print(f"{arguments.command}: {told(error)}", file=sys.stderr)
        return 2
    return status


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m voltrade", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    commands.add_parser("venue", help="run a simulated Binance USD-M Futures server on loopback", add_help=False)
    commands.add_parser("data", help="keep trades, mark prices and funding rates in a store", add_help=False)
    commands.add_parser("ctl", help="show a running session's status, or send it an operator command", add_help=False)
    _add_run(commands)
    _add_replay_review_verify(commands)
    _add_runs(commands)
    for command in (_add_doctor(commands), _add_authorise(commands), _add_check(commands)):
        command.add_argument(
            *("-p", "--parameter"),
            action="append",
            nargs=2,
            default=[],
            dest="parameters",
            metavar=("NAME", "VALUE"),
            help="a parameter of the session, as papermill takes it; can be repeated",
        )
    return parser


def _add_run(commands: Commands) -> None:
    command = commands.add_parser(
        "run",
        help="run the engine process of a session whose folder holds run.json (notebooks do this)",
        description="Run the engine process of a session. Where the folder holds the journal of an engine that was "
        "killed, the run is resumed: orders in flight are looked up and the account is reconciled before it trades.",
    )
    command.add_argument("run", type=Path, nargs="?", metavar="RUN", help="folder of a run")
    command.add_argument(
        "--resume", action="store_true", help="resume a run that was killed; without RUN the only one under runs/"
    )
    command.set_defaults(do=_run)


def _add_replay_review_verify(commands: Commands) -> None:
    for name, do, words in (
        ("replay", _replay, "verify a run, replay its journal and compare every decision"),
        ("review", _review, "write the review of a run as one page, RUN/review.html"),
        ("verify", _verify, "check a run's journal against run.json, the notebook and the ledger"),
    ):
        epilog = None if name == "review" else _EXIT_STATUS
        command = commands.add_parser(name, help=words, description=f"{words[0].upper()}{words[1:]}.", epilog=epilog)
        command.add_argument(
            "run", type=Path, metavar="RUN", help="folder of a run, such as runs/demo, or its notebook"
        )
        command.set_defaults(do=do)
        if name == "verify":
            command.add_argument("--notebook", type=Path, help="its executed notebook, by default the one beside it")
            command.add_argument(
                "--head", default="", help="its head hash from elsewhere, such as the last notification"
            )


def _add_runs(commands: Commands) -> None:
    command = commands.add_parser(
        "runs",
        help="list the runs",
        description="List the runs in a folder, the newest first. net is of closed round trips; unrealised is what the "
        "open position gains at the last valuation, without the fees paid for it so far.",
    )
    command.add_argument("folder", type=Path, nargs="?", metavar="FOLDER", help="by default runs/ of the project")
    command.set_defaults(do=_runs)


def _add_doctor(commands: Commands) -> argparse.ArgumentParser:
    command = commands.add_parser(
        "doctor",
        help="print whether a session could start, and what it lacks",
        description="Print the start-up table of a session with these parameters, and what it lacks. Nothing is traded "
        "or changed unless --trade is given; modes demo and live use the keys of the environment to read the account. "
        "The account's ledger is not locked: a session may still be refused by what it says.",
    )
    command.add_argument(
        "--trade",
        action="store_true",
        help="check the exchange by real orders of the least size, which are cancelled and closed again",
    )
    command.add_argument("--record", type=Path, metavar="FOLDER", help="new or empty folder for the record of --trade")
    command.set_defaults(do=_doctor)
    return command


def _add_authorise(commands: Commands) -> argparse.ArgumentParser:
    command = commands.add_parser(
        "authorise",
        help="write an authorisation file for scheduled sessions in mode live",
        description="Write a file that allows sessions in mode live, for one account and symbol, until it expires; "
        "VOLTRADE_AUTHORISATION must name it. Largest notional, daily loss, drawdown, risk_fraction and leverage of "
        "the parameters are its ceilings: no session may have more. Another user may own it.",
    )
    command.add_argument("file", type=Path, metavar="FILE", help="a new file; its mode will be 0600")
    command.add_argument("--days", type=float, required=True, help="how long it is valid, at most 31")
    command.add_argument("--account", default="", help="fingerprint of the API key; by default of the environment's")
    command.add_argument("--pin", action="store_true", help="allow no other rule file and no other trading settings")
    command.set_defaults(do=_authorise)
    return command


def _add_check(commands: Commands) -> argparse.ArgumentParser:
    command = commands.add_parser(
        "check",
        help="check a rule for look-ahead, hidden state and its warm-up",
        description="Check whether a rule looks ahead, keeps hidden state between runs, or needs more bars to warm up "
        "than it declares: the built-in rule or one of a file, with the settings of the parameters.",
    )
    command.add_argument("--rule", default="", metavar="FILE:CLASS", help="a rule file's class; or -p rule FILE:CLASS")
    command.set_defaults(do=_check)
    return command


def _ctl_parser() -> argparse.ArgumentParser:
    meanings = "\n".join(f"  {action:<8} {meaning}" for action, meaning in ACTIONS.items())
    parser = argparse.ArgumentParser(
        prog="python -m voltrade ctl",
        description="Show the status of a running session, or send it a command, which is written to its journal.\n\n"
        f"{meanings}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("action", choices=ACTIONS, metavar="ACTION")
    parser.add_argument("run", type=Path, nargs="?", metavar="RUN", help="folder of a run; by default the only one")
    parser.add_argument("--reason", default="", help="why; kept in the journal")
    parser.set_defaults(do=_ctl, command="ctl")
    return parser


def _ctl(arguments: argparse.Namespace) -> int:
    run = arguments.run
    if run is None:
        found = running(Path("runs"))
        if not found:
            raise SessionError("run: no session is running under runs/")
        if len(found) != 1:
            listed = "".join(f"\n  {printable(path)}  {identity(path)}" for path in found)
            raise SessionError(f"run: must be named, {len(found)} are running:{listed}")
        [run] = found
    reason = arguments.reason
    if arguments.action == "stop" and reason:
        reason = f"STOPPED: {reason}"  # the end reason begins with STOPPED
    answer = ask(run, {"op": arguments.action, "reason": reason})
    for name, value in rows_of(run, arguments.action, answer).items():
        print(f"{name:>20}  {printable(value)}")
    return 0


def _run(arguments: argparse.Namespace) -> int:
    from voltrade.engine import guardian

    run = _run_to_resume(arguments.run) if arguments.resume else _given(arguments.run)
    if arguments.resume:
        release(run)
    watched = guardian.command(run, (sys.executable, "-m", "voltrade.engine.engine_process"))
    os.execv(watched[0], watched)


def _given(run: Path | None) -> Path:
    if run is None:
        raise SessionError("run: must be the folder of a run, was none; --resume finds the one that was killed")
    return run


def _run_to_resume(run: Path | None) -> Path:
    """Return the run to resume: the given one, or the only one under runs/ whose engine was killed."""
    files = [path for name in (RECORD, JOURNAL) for path in Path("runs").glob(f"*/{name}")]  # either may be lost
    found = [run] if run is not None else list(dict.fromkeys(path.parent for path in files))
    found = [folder for folder in found if can_be_resumed(folder)]
    if len(found) != 1:
        names = [path.name for path in found]
        raise SessionError(
            f"run: must be one whose engine was killed; {run or 'under runs/'} has {', '.join(names) or 'none'}"
        )
    return found[0]


def _runs(arguments: argparse.Namespace) -> int:
    from voltrade.report.text_table import readable
    from voltrade.runs.listing import list_runs

    table = readable(list_runs(arguments.folder), decimals=2).reset_index()
    if table.empty:
        print("no runs")
        return 0
    columns = [[str(name), *map(printable, table[name])] for name in table]
    widths = [max(map(len, column)) for column in columns]
    sides = [">" if name in ("round_trips", "net", "unrealised") else "<" for name in table]
    for row in zip(*columns, strict=True):
        cells = (f"{text:{side}{width}}" for text, side, width in zip(row, sides, widths, strict=True))
        print("  ".join(cells).rstrip())
    return 0


def _doctor(arguments: argparse.Namespace) -> int:
    from voltrade.engine.doctor import examine

    if arguments.trade:
        return _check_by_orders(arguments)
    if arguments.record:
        raise ConfigError("--record: must stand with --trade, whose record it is for")
    checks = asyncio.run(examine(_config(arguments)))
    width = max(len(check.item) for check in checks)
    for check in checks:
        print(f"{check.mark}  {check.item:<{width}}  {printable(check.told)}")
    return 0 if all(check.ok for check in checks) else 1


def _check_by_orders(arguments: argparse.Namespace) -> int:
    from voltrade.engine.demo_check.check import VERDICTS, run_check
    from voltrade.engine.demo_check.report import LEGEND, record_name
    from voltrade.engine.demo_check.terminal import Terminal

    config = _config(arguments)
    folder = arguments.record or Path("runs") / record_name(datetime.now(UTC))
    with Terminal() as terminal:

        def show(row: object) -> None:
            terminal.print(printable(row))

        def show_address(address: str) -> None:
            if sys.stdout.isatty():  # a notebook, or a file, would keep it
                show(f"    we come from {address}")

        show(LEGEND)
        report = run_check(config, os.environ, folder, show, show_address, show)
        for line in report.summary(str(folder / VERDICTS)):
            show(line)
    return 0 if report.passed else 1


def _authorise(arguments: argparse.Namespace) -> int:
    account = arguments.account or Credentials.load(os.environ).fingerprint
    config, validity = _config(arguments, makes_bars=arguments.pin), timedelta(days=arguments.days)
    stated = authorise(arguments.file, config, account, validity, datetime.now(UTC), is_pinned=arguments.pin)
    print(f"{arguments.file}: " + ", ".join(f"{name} {value}" for name, value in stated.items()))
    for line in left_out(config):
        print(line)
    return 0


def _check(arguments: argparse.Namespace) -> int:
    from voltrade.simulated.symbols import shipped_instrument
    from voltrade.strategy.check import check

    config = _config(arguments)
    report = check(load_rule(config.session.rule), config.signals, shipped_instrument(config.session.symbol))
    print(report)
    return 0 if report.ok else 1


def _config(arguments: argparse.Namespace, makes_bars: bool = False) -> Config:
    given = {name: _literal(text) for name, text in arguments.parameters}
    if getattr(arguments, "rule", ""):
        given["rule"] = arguments.rule
    return read_parameters(given, makes_bars=makes_bars)


def _literal(text: str) -> object:
    """Convert a value as papermill does: to True, False, None or a number, else to a text."""
    with suppress(ValueError, SyntaxError):
        value = ast.literal_eval(text)
        if value is None or isinstance(value, bool | int | float):
            return value
    return text


def _replay(arguments: argparse.Namespace) -> int:
    from voltrade.runs.replay import replay
    from voltrade.runs.verify import verify

    verification = verify(arguments.run)
    for line in verification.wrong:
        print(printable(line))
    if not verification.chain.ok:  # a changed row can cause any error in a replay
        print(verification.outcome)
        return 1
    result = replay(_journal_of(arguments.run))
    for line in result.shown:
        print(printable(line))
    print(f"{result.events} events, {result.outputs} bars, commands and notes: {result.differences} differences")
    print(printable(verification.outcome))
    return 0 if verification.ok and not result.differences else 1


def _verify(arguments: argparse.Namespace) -> int:
    from voltrade.runs.verify import verify

    verification = verify(arguments.run, arguments.notebook, arguments.head)
    marks = {True: "ok", False: "!!", None: "--"}
    for check in verification.checks:
        print(f"{marks[check.ok]}  {check.name:<10}  {printable(check.found)}")
    print(printable(f"not checked: {'; '.join(verification.unchecked)}"))
    print(printable(verification.outcome))
    return 0 if verification.ok else 1


def _review(arguments: argparse.Namespace) -> int:
    from voltrade.notebook.review_page import write_review

    print(write_review(arguments.run))
    return 0


def _journal_of(run: Path) -> Path:
    run = run.with_suffix("") if run.suffix == ".ipynb" else run
    return run if run.is_file() else run / JOURNAL


class _PipeSafeFile(io.FileIO):
    """A standard stream that ignores all output after its reader, such as `head`, has closed the pipe.

    An engine, a venue or a download must not stop because nobody reads its output. A BrokenPipeError is handled here,
    because at other places it could be that of a socket.
    """

    def write(self, data: Any, /) -> int:
        try:
            return super().write(data) or 0
        except BrokenPipeError:
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, self.fileno())
            os.close(nowhere)
            return len(data)


def _pipe_safe(stream: io.TextIOWrapper) -> io.TextIOWrapper:
    """Return the stream with a reader that may close the pipe."""
    raw = _PipeSafeFile(stream.fileno(), "w", closefd=False)
    return io.TextIOWrapper(
        cast(BinaryIO, raw) if stream.write_through else io.BufferedWriter(raw),
        stream.encoding,
        stream.errors,
        line_buffering=stream.line_buffering,
        write_through=stream.write_through,
    )


if __name__ == "__main__":
    for name in ("stdout", "stderr"):
        if (stream := getattr(sys, name)) is not None:  # None if it was closed from the beginning
            setattr(sys, name, _pipe_safe(stream))
    sys.exit(main())
