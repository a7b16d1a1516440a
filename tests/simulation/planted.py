"""Bugs planted in our own code, to see that the simulator sees: `python -m simulation.planted`.

Each is a plausible mistake, one change of one file. It is made in a copy of the package in a temporary folder; sessions
that are without a violation on the code as it is (`seeds/clean.json`) are played on the copy, one after the other,
until an oracle finds it that should see it. A bug that none finds is a fault of the plans or of the oracles.

The clean seeds are kept with the hash of the code that they were found with. After a change of the code they are played
again, and those that aren't clean any more are replaced.

The copies are not compiled (VOLTRADE_PLAIN): a session costs a third more, and compiling for each copy far more.
"""

from __future__ import annotations

import argparse
import gc
import json
import logging
import multiprocessing
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from simulation.campaign import campaign, code_hash, session
from simulation.evidence import Json

HERE = Path(__file__).resolve().parent
TESTS, PACKAGE = HERE.parent, HERE.parent.parent / "voltrade"
CLEAN = HERE / "seeds/clean.json"
CLEAN_SEEDS = 100
MOST_SEEDS = 2_000
"""So many are tried to find the clean ones."""
BLOCK = 60
WITHIN_S = 3_600.0


@dataclass(frozen=True)
class Bug:
    """A mistake that somebody could make.

    Attributes:
        name: what is wrong.
        file: which file of the package it is in.
        old: the text that stands there exactly once.
        new: what somebody might have written.
        seen_by: oracles of which one should see it.
    """

    name: str
    file: str
    old: str
    new: str
    seen_by: tuple[str, ...]


BUGS: tuple[Bug, ...] = (
    Bug(
        "a timeout is taken for a refusal, and tried again with a new id",
        "order_rules.py",
        "    if outcome == states.UNANSWERED or reaction_to(code) == states.LOOKUP:",
        "    if reaction_to(code) == states.LOOKUP:",
        ("O1", "O2", "O3", "O4", "O5", "O6"),
    ),
    Bug(
        "the time without cover begins anew with every event",
        "position_rules.py",
        "    elif position.unprotected_since == NEVER:",
        "    else:",
        ("O5",),
    ),
    Bug(
        "the stop is not made larger while the entry fills",
        "position_rules.py",
        "return 0 if entry_is_done(symbol) else int(stop.time + states.RESIZE_EVERY_MS)",
        "return NEVER",
        ("O5",),
    ),
    Bug(
        "a fill that is told after its order's end is dropped",
        "core_rules.py",
        "    if event.trade_id:\n        order_rules.apply_fill(account, symbol, event)",
        "    if event.trade_id and not order_queries.is_done(symbol.orders[event.order]):\n"
        "        order_rules.apply_fill(account, symbol, event)",
        ("O1", "O2"),
    ),
    Bug(
        "a fill of a snapshot counts though the stream has told it",
        "account_check.py",
        "in sorted(filter(register.is_new_fill, snapshot.fills), key=",
        "in sorted(snapshot.fills, key=",
        ("O1", "O2"),
    ),
    Bug(
        "a fill counts as often as it is told",
        "order_register.py",
        "return update.trade_id > 0 and update.trade_id not in self.fills",
        "return update.trade_id > 0",
        ("O1", "O2"),
    ),
    Bug(
        "an order's state goes back on late news",
        "order_rules.py",
        "    if not states.LEGAL[1 if is_algo(order) else 0, order.state, state]:\n        return False\n",
        "",
        ("O4", "O5", "O12"),
    ),
    Bug(
        "an order that is not found once never was",
        "oms.py",
        "            if self._absences[number] >= states.ABSENCE_ANSWERS and number in self._unlisted:\n"
        "                return states.ABSENT",
        "            return states.ABSENT",
        ("O3", "O4", "O5"),
    ),
    Bug(
        "the position is set to what a snapshot says",
        "oms.py",
        "        ours, theirs = self.position, snapshot.position.quantity\n",
        "        if self.has_position and self._position_row['entered']:\n"
        "            self._position_row['exited'] = self._position_row['entered'] - abs(snapshot.position.quantity)\n"
        "        ours, theirs = self.position, snapshot.position.quantity\n",
        ("O5", "O6"),
    ),
    Bug(
        "an exit may open a position",
        "row_facts.py",
        "reduce_only=purpose is not Purpose.ENTRY,",
        "reduce_only=purpose in (Purpose.STOP, Purpose.TAKE_PROFIT),",
        ("O1", "O5"),
    ),
    Bug(
        "the stop of a short lies where a long's would",
        "position_rules.py",
        "price_from_average(position.entry_notional, position.entered, position.side * profit)",
        "price_from_average(position.entry_notional, position.entered, profit)",
        ("O5",),
    ),
    Bug(
        "what is left over when the position is gone is not cancelled but for stops",
        "position_rules.py",
        "                cancel(account, symbol, row, time, states.POSITION_CLOSED)",
        "                if purpose == states.STOP:\n"
        "                    cancel(account, symbol, row, time, states.POSITION_CLOSED)",
        ("O4", "O12"),
    ),
    Bug(
        "an order is written down after it was sent",
        "live.py",
        "        self._commit()\n        if self._is_unstored",
        "        if self._is_unstored",
        ("O7",),
    ),
    Bug(
        "Retry-After is read in milliseconds",
        "exchange/client.py",
        "return self.clock() + int(retry_after) * 1000",
        "return self.clock() + int(retry_after)",
        ("O10",),
    ),
    Bug(
        "a conditional order is cancelled with all others of the account",
        "exchange/rest.py",
        'call = "fapiPrivateDeleteAlgoOrder" if command.algo else "fapiPrivateDeleteOrder"',
        'call = "fapiPrivateDeleteAlgoOpenOrders" if command.algo else "fapiPrivateDeleteOrder"',
        ("O4",),
    ),
    Bug(
        "a stop watches the last price whatever was asked for",
        "exchange/order_params.py",
        '"workingType": order.working_type.value,',
        '"workingType": "CONTRACT_PRICE",',
        ("O15",),
    ),
    Bug(
        "a gap in the trades does not taint its bar",
        "bars.py",
        "        state.gaps += 1\n        bar.tainted = True",
        "        state.gaps += 1",
        ("O11",),
    ),
    Bug(
        "a user stream that is up again counts as in step",
        "core.py",
        "            if status.up:\n                outputs.append(TakeSnapshot",
        "            symbol_state.monitor.reconciled = status.up and self.account is not None\n"
        "            if status.up and self.account is None:\n                outputs.append(TakeSnapshot",
        ("O1", "O2", "O5", "O6"),
    ),
    Bug(
        "halts, limits and cooldown begin anew with the process",
        "core.py",
        "            outputs += symbol_state.monitor.on_restart(self.time)",
        "            row = self._books.symbols[symbol_state.index]\n"
        "            row['last_exit_time'], row['last_exit_bar'] = risk.NO_EXIT, 0\n"
        "            self._books.account['paused'] = NONE\n"
        "            if self.account is not None:\n"
        "                wallet = self.account.wallet\n"
        "                rows = self._books.breaker_rows\n"
        "                self._books.breaker = CircuitBreaker(self.config.risk, self.time, wallet, rows)\n"
        "            outputs += symbol_state.monitor.on_restart(self.time)",
        ("O6", "O9"),
    ),
    Bug(
        "the cooldown counts from the entry",
        "core_rules.py",
        "symbol.last_exit_time, symbol.last_exit_bar = symbol.closed_trips[number].time, symbol.bars",
        "symbol.last_exit_time, symbol.last_exit_bar = symbol.closed_trips[number].time, symbol.opened_at_bar",
        ("O9",),
    ),
    Bug(
        "the core reads a clock",
        "core.py",
        '        self._books.account["now"] = self.time',
        '        self._books.account["now"] = __import__("time").time_ns() // 1_000_000',
        ("O8",),
    ),
)


# --- a copy of the package ------------------------------------------------------------------------------------------


def plant(bug: Bug, folder: Path) -> None:
    """Copy the package into a folder, with the bug.

    Raises:
        ValueError: the text that it changes does not stand there exactly once.
    """
    source = (PACKAGE / bug.file).read_text()
    if source.count(bug.old) != 1:
        raise ValueError(f"{bug.name}: {bug.file} must have its text once, has it {source.count(bug.old)} times")
    shutil.copytree(PACKAGE, folder / PACKAGE.name, ignore=shutil.ignore_patterns("__pycache__"))
    (folder / PACKAGE.name / bug.file).write_text(source.replace(bug.old, bug.new))


def hunt(bug: Bug, seeds: Sequence[int]) -> Json:
    """Play seeds on a copy with the bug until an oracle that should see it does.

    Returns:
        That session's line, with `sessions` played; otherwise that of the last one that broke anything, or of the last.
    """
    with TemporaryDirectory(prefix="voltrade-planted-") as folder:
        plant(bug, Path(folder))
        paths = {"PYTHONPATH": f"{folder}{os.pathsep}{TESTS}", "VOLTRADE_PLAIN": "1"}
        command = [sys.executable, "-m", "simulation.planted", "--on", folder, "--only", bug.name, *map(str, seeds)]
        # In that folder, since Python looks for modules where it is started first.
        done = subprocess.run(
            command, cwd=folder, env={**os.environ, **paths}, capture_output=True, text=True, timeout=WITHIN_S
        )
    if done.returncode:
        raise RuntimeError(f"{bug.name}: {done.stderr[-2_000:]}")
    line: Json = json.loads(done.stdout.splitlines()[-1])
    return line


def _play_on(folder: Path, bug: Bug, seeds: Sequence[int]) -> Json:
    """In the process of `hunt`: play until the bug is seen."""
    import voltrade

    assert Path(str(voltrade.__file__)).is_relative_to(folder), voltrade.__file__
    logging.disable(logging.CRITICAL)
    gc.disable()  # `session` collects what each one leaves
    told: Json = {}
    for played, seed in enumerate(seeds, 1):
        line = session(seed) | {"sessions": played}
        if line.get("violations") or "broken" in line or not told:
            told = line
        if is_seen(bug, line):
            break
    return told | {"sessions": played}


# --- seeds that are clean without a bug -----------------------------------------------------------------------------


def known_clean() -> Json:
    """Return what is kept: `code`, the hash that the seeds were found with, and `seeds`."""
    kept: Json = json.loads(CLEAN.read_text()) if CLEAN.exists() else {"code": "", "seeds": []}
    return kept


def clean_seeds(workers: int, count: int = CLEAN_SEEDS) -> list[int]:
    """Return seeds whose sessions break no rule on the code as it is; those that are kept, where that has not changed.

    Raises:
        RuntimeError: there are not enough.
    """
    kept, code = known_clean(), code_hash()
    if kept["code"] == code and len(kept["seeds"]) >= count:
        return list(kept["seeds"][:count])
    known = set(kept["seeds"])
    waiting = [*kept["seeds"], *(seed for seed in range(1, MOST_SEEDS + 1) if seed not in known)]
    results = Path("build") / f"planted-{code}.jsonl"
    clean: list[int] = []
    while len(clean) < count and waiting:
        block, waiting = waiting[:BLOCK], waiting[BLOCK:]
        lines = campaign(block, results, workers=workers)
        clean += [line["seed"] for line in lines if line.get("violations") == []]
    if len(clean) < count:
        raise RuntimeError(f"{len(clean)} of {MOST_SEEDS} seeds are clean, {count} are needed")
    CLEAN.parent.mkdir(exist_ok=True)
    CLEAN.write_text(json.dumps({"code": code, "seeds": sorted(clean[:count])}) + "\n")
    return sorted(clean[:count])


# --- the table ------------------------------------------------------------------------------------------------------


def is_seen(bug: Bug, line: Json) -> bool:
    """Whether an oracle that should see a bug did; a session that broke, or another oracle alone, is no catch."""
    return any(oracle in bug.seen_by for oracle, *_ in line.get("violations") or ())


def row(bug: Bug, line: Json) -> str:
    """Say in a line of the table what became of a bug."""
    if line.get("violations"):
        oracle, kind, _, text = line["violations"][0]
        others = sorted({f"{other} {name}" for other, name, *_ in line["violations"]} - {f"{oracle} {kind}"})
        caught = f"{oracle} {kind} at seed {line['seed']}, session {line['sessions']}: {text}"
        caught += f" (also {', '.join(others)})" if others else ""
        return caught if is_seen(bug, line) else f"NOT CAUGHT by {', '.join(bug.seen_by)}: {caught}"
    if "broken" in line:
        return (
            f"the session broke at seed {line['seed']}, session {line['sessions']}: {line['broken'].splitlines()[-1]}"
        )
    return f"NOT CAUGHT in {line['sessions']} sessions; {', '.join(bug.seen_by)} should"


def main(argv: Iterable[str] | None = None) -> int:
    """Plant each bug; the exit status says whether one was not caught."""
    parser = argparse.ArgumentParser(
        prog="python -m simulation.planted", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", default="", help="bugs whose name has this text")
    parser.add_argument("--workers", type=int, default=multiprocessing.cpu_count(), help="processes")
    parser.add_argument("--on", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("seeds", type=int, nargs="*", help="instead of the clean ones")
    given = parser.parse_args(None if argv is None else list(argv))
    if given.on:
        [bug] = [bug for bug in BUGS if bug.name == given.only]
        print(json.dumps(_play_on(given.on, bug, given.seeds)))
        return 0
    seeds = given.seeds or clean_seeds(given.workers)
    began, missed = time.monotonic(), 0
    chosen = [bug for bug in BUGS if given.only in bug.name]
    with ThreadPoolExecutor(given.workers) as pool:
        hunts = {pool.submit(hunt, bug, seeds): bug for bug in chosen}
        for done in as_completed(hunts):
            bug, line = hunts[done], done.result()
            missed += not is_seen(bug, line)
            print(f"{bug.name}\n    {row(bug, line)}", flush=True)
    took_s = time.monotonic() - began
    print(f"{len(chosen) - missed} of {len(chosen)} bugs caught on {len(seeds)} clean seeds, {took_s:.0f} s")
    return int(missed > 0)


if __name__ == "__main__":
    sys.exit(main())
