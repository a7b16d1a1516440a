"""Other people's clients trade a scripted session at the simulated venue, over real sockets and unpatched.

    PYTHONPATH=tests python -m conformance.session freqtrade nautilus_trader

Each runs in an environment of its own (`make conformance` makes them), aimed at the venue by its own configuration. The
script says when it may enter and leave, lets the price fall through its stop, and kills it without warning. What it
says of its position is compared with the venue's log (`verdict.py`). The report goes to standard output.
"""

from __future__ import annotations

import argparse
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from conformance.processes import KINDS, ROOT, Client, Market, a_market
from conformance.verdict import Row, Trip, problems

PATIENCE_S = 150.0
"""The longest that a client may take for anything; after an exit freqtrade waits for the next minute."""
CALM_S = 5.0
"""How long a client that was started again may do something of its own, in position."""


class Failed(Exception):
    """A client did not come to what the script expects of it."""


class Session:
    """The script of a session with a client that runs.

    Args:
        market: where it trades.
        client: the client.
        keeps: whether it knows after a restart what went on without it.
    """

    def __init__(self, market: Market, client: Client, *, keeps: bool) -> None:
        self._market, self._client, self._keeps = market, client, keeps
        self._held: list[Row] = []
        self._trips: list[tuple[int, Trip]] = []

    def play(self) -> list[Trip]:
        """Play all trips; return them with their rows of the log."""
        self._trip("entry, stop, stop hit", self._fall)
        self._trip("entry, stop, left by the client", self._leave, by_stop=False)
        self._trip("entry, stop, killed, started again, stop hit", self._restart)
        self._trip("entry, stop, killed, stop hit, started again", self._fall_alone, is_exit_known=self._keeps)
        time.sleep(CALM_S)
        rows = self._market.rows()
        ends = [first for first, _ in self._trips[1:]] + [len(rows)]
        return [replace(trip, rows=rows[first:end]) for (first, trip), end in zip(self._trips, ends, strict=True)]

    def _trip(self, name: str, middle: Callable[[], None], **kind: bool) -> None:
        """Let the client enter, do what the trip is about, and wait until it knows that it is flat."""
        first = len(self._market.rows())
        self._client.permit("enter")
        self._held = [self._until("entry and stop", lambda it: float(it["position"]) > 0 and it["stops"])]
        middle()
        flat = self._until("flat", lambda it: float(it["position"]) == 0 and not it["stops"])
        self._trips.append((first, Trip(name, [], self._held, flat, **kind)))

    def _until(self, what: str, condition: Callable[[Row], Any]) -> Row:
        """Wait until the client knows something; return what it knows."""
        deadline = time.monotonic() + PATIENCE_S
        while not (known := self._client.knows()) or not condition(known):
            if time.monotonic() > deadline or not self._client.is_running:
                raise Failed(f"{what}: the client {'says' if self._client.is_running else 'ended and said'} {known}")
            time.sleep(0.2)
        return known

    def _fall(self) -> None:
        self._market.fall(0.02)

    def _leave(self) -> None:
        self._client.permit("leave")

    def _restart(self) -> None:
        self._client.end()
        self._client.start()
        self._held.append(self._until("found again", lambda it: float(it["position"]) > 0 and it["stops"]))
        time.sleep(CALM_S)
        self._fall()

    def _fall_alone(self) -> None:
        self._client.end()
        self._fall()
        time.sleep(CALM_S)
        self._client.start()


def play(name: str, python: Path, folder: Path) -> bool:
    """Play the session with a client and print the report; return whether all was well."""
    kind = KINDS[name]
    with a_market(folder) as market:
        client = Client(kind.command(python, market, folder), folder)
        client.start()
        try:
            trips = Session(market, client, keeps=kind.keeps).play()
            wrong = [line for trip in trips for line in problems(trip, kind.excused)]
        except Failed as failure:
            trips, wrong = [], [str(failure)]
        finally:
            client.end(signal.SIGTERM)
        print("\n".join(report(market.rows(), trips, client.complaints(), wrong)), flush=True)
    return not wrong


def report(rows: Sequence[Row], trips: Sequence[Trip], complaints: Sequence[str], wrong: Sequence[str]) -> list[str]:
    """Return the lines of a report: the trips with their fills, the requests, complaints, and what was wrong."""
    lines = []
    for trip in trips:
        fills = [
            f"{fill['side']} {fill['quantity']} at {fill['price']}" for fill in trip.rows if fill["kind"] == "fill"
        ]
        lines.append(f"  {trip.name}: {', '.join(fills)}")
    asked = [row for row in rows if row["kind"] == "request"]
    count = Counter(f"{row['method']} {row['path']} {row['code'] or ''}".strip() for row in asked)
    lines += [f"  {number:5d} {path}" for path, number in sorted(count.items())]
    lines += [f"  the client complains: {line[:160]}" for line in complaints]
    return [*lines, *(f"  WRONG: {line}" for line in wrong), "  failed" if wrong else "  passed"]


def version_of(name: str, python: Path) -> str:
    asked = f"import importlib.metadata, sys; print(importlib.metadata.version({name!r}), sys.version.split()[0])"
    told = subprocess.run([str(python), "-c", asked], capture_output=True, text=True, check=True)
    return "{} on Python {}".format(*told.stdout.split())


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser("python -m conformance.session", description=__doc__.partition("\n")[0])
    parser.add_argument("clients", nargs="*", metavar="CLIENT", help=f"which of {', '.join(KINDS)}; all by default")
    parser.add_argument("--environments", type=Path, default=ROOT, help="the folder of .venv-CLIENT")
    given = parser.parse_args(argv)
    verdicts = []
    for name in given.clients or KINDS:
        python = given.environments / f".venv-{name}" / "bin" / "python"
        folder = Path(tempfile.mkdtemp(prefix=f"conformance-{name}-"))
        print(f"{name} {version_of(name, python)}; logs in {folder}", flush=True)
        verdicts.append(play(name, python, folder))
    return 0 if all(verdicts) else 1


if __name__ == "__main__":
    sys.exit(main())
