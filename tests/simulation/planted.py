"""Bugs planted in our own code, to see that the simulator sees: `python -m simulation.planted`.

Each is a plausible mistake, one change of one file. It is made in a copy of the package in a temporary folder; sessions
that are without a violation on the code as it is (`seeds/clean.json`) are played on the copy, one after the other,
until an oracle finds it that should see it. A bug that shows under some kinds of faults alone gets sessions of the same
seeds with these faults, and what shows it must be clean without it. A bug that none finds is a fault of the plans or of
the oracles. The bugs themselves are in `planted_bugs`.

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
import traceback
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from simulation.campaign import campaign, code_hash
from simulation.clock import BEGIN_MS
from simulation.evidence import Json
from simulation.kinds import NAMED, row_of
from simulation.oracles import judge
from simulation.plans import Plan, draw_opening, draw_plan
from simulation.planted_bugs import BUGS, Bug
from simulation.scenario import play

HERE = Path(__file__).resolve().parent
TESTS, PACKAGE = HERE.parent, HERE.parent.parent / "voltrade"
CLEAN = HERE / "seeds/clean.json"
CLEAN_SEEDS = 100
MOST_SEEDS = 2_000
"""So many are tried to find the clean ones."""
BLOCK = 60
MIDNIGHT = "midnight"
"""Stands among the kinds of faults of a bug for a day that ends within the session."""
TIMES_S = tuple(60.0 + 55.0 * number for number in range(11))
"""When the faults strike under which a bug shows."""
DEATHS = frozenset({"E1", "E2", "E3"})
"""Rows of the catalogue in which the engine dies."""
WITHIN_S = 3_600.0


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


def in_order(bug: Bug, seeds: Sequence[int]) -> list[int]:
    """Return seeds with those first whose sessions have midnight in them, where a bug shows then."""
    return sorted(seeds, key=lambda seed: MIDNIGHT in bug.struck_by and draw_opening(seed) == BEGIN_MS)


def plan_of(bug: Bug, seed: int) -> Plan:
    """Draw a plan, with the bug's own settings, and the kinds of faults under which it shows in the place of others."""
    plan, draw = draw_plan(seed), np.random.default_rng([seed, 5])
    plan = replace(plan, settings={**plan.settings, **bug.settings})
    if not (kinds := _kinds_of(bug)):
        return plan
    strikes = tuple(NAMED[name].draw(draw, at) for name, at in zip(kinds, TIMES_S, strict=False))
    return replace(plan, strikes=strikes, kinds=kinds, rows=tuple(map(row_of, kinds)))


def _kinds_of(bug: Bug) -> tuple[str, ...]:
    """The kinds of faults of a bug in turn, with two deaths at most: a third one makes the next engine a caretaker."""
    names = [name for name in bug.struck_by if name != MIDNIGHT]
    kinds = [names[number % len(names)] for number in range(len(TIMES_S) if names else 0)]
    deaths = [number for number, name in enumerate(kinds) if DEATHS & {*NAMED[name].rows}]
    return tuple(name for number, name in enumerate(kinds) if number not in deaths[2:])


def _is_as_drawn(bug: Bug) -> bool:
    return not bug.settings and not _kinds_of(bug)


def hunt(bug: Bug, seeds: Sequence[int]) -> Json:
    """Play seeds on a copy with the bug until an oracle that should see it does.

    Where the bug has settings or faults of its own, the session that shows it is played without the bug too, and must
    be clean: seeds are known to be so as they are drawn.

    Returns:
        That session's line, with `sessions` played and `took_s`; otherwise that of the last one that broke anything,
        or of the last.
    """
    left, played, began = in_order(bug, seeds), 0, time.monotonic()
    with TemporaryDirectory(prefix="voltrade-planted-") as folder:
        plant(bug, Path(folder))
        while True:
            line = _played_on(Path(folder), bug, left)
            played += line["sessions"]
            left = left[line["sessions"] :]
            if not is_seen(bug, line) or _is_as_drawn(bug) or is_clean(_played_on(PACKAGE.parent, bug, [line["seed"]])):
                return line | {"sessions": played, "took_s": time.monotonic() - began}
            if not left:
                return line | {"violations": [], "sessions": played, "took_s": time.monotonic() - began}


def _played_on(folder: Path, bug: Bug, seeds: Sequence[int]) -> Json:
    """Play seeds in a process whose package is the one in a folder, until the bug is seen."""
    paths = {"PYTHONPATH": f"{folder}{os.pathsep}{TESTS}", "VOLTRADE_PLAIN": "1"}
    command = [sys.executable, "-m", "simulation.planted", "--on", f"{folder}", "--only", bug.name, *map(str, seeds)]
    # In that folder, since Python looks for modules where it is started first.
    done = subprocess.run(
        command, cwd=folder, env={**os.environ, **paths}, capture_output=True, text=True, timeout=WITHIN_S
    )
    if done.returncode:
        raise RuntimeError(f"{bug.name}: {done.stderr[-2_000:]}")
    line: Json = json.loads(done.stdout.splitlines()[-1])
    return line


def _play_on(folder: Path, bug: Bug, seeds: Sequence[int]) -> Json:
    """In the process of `_played_on`: play until the bug is seen."""
    import voltrade

    assert Path(str(voltrade.__file__)).is_relative_to(folder), voltrade.__file__
    logging.disable(logging.CRITICAL)
    gc.disable()  # what a session leaves is collected after it
    told, played = Json(), 0
    for played, seed in enumerate(seeds, 1):
        line = _session(bug, seed) | {"sessions": played}
        if line.get("violations") or "broken" in line or not told:
            told = line
        if is_seen(bug, line):
            break
    return told | {"sessions": played}


def _session(bug: Bug, seed: int) -> Json:
    """Play and judge a session with what its bug's oracles need: a replay for O8 alone."""
    is_replayed = "O8" in bug.seen_by
    try:
        found = judge(play(plan_of(bug, seed), is_replayed))
    except Exception as error:
        return {"seed": seed, "broken": "".join(traceback.format_exception(error))[-2_000:]}
    finally:
        gc.collect()
    told = [each for each in found if is_replayed or each.oracle != "O8"]
    return {"seed": seed, "violations": [[each.oracle, each.kind, each.time, each.text] for each in told]}


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
        clean += [line["seed"] for line in lines if is_clean(line)]
    if len(clean) < count:
        raise RuntimeError(f"{len(clean)} of {MOST_SEEDS} seeds are clean, {count} are needed")
    CLEAN.parent.mkdir(exist_ok=True)
    CLEAN.write_text(json.dumps({"code": code, "seeds": sorted(clean[:count])}) + "\n")
    return sorted(clean[:count])


# --- the table ------------------------------------------------------------------------------------------------------


def is_seen(bug: Bug, line: Json) -> bool:
    """Whether an oracle that should see a bug did; a session that broke, or another oracle alone, is no catch."""
    return any(oracle in bug.seen_by for oracle, *_ in line.get("violations") or ())


def is_clean(line: Json) -> bool:
    """Whether a session broke no rule."""
    return bool(line.get("violations") == [])


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
    parser.add_argument("--most", type=int, default=CLEAN_SEEDS, help="sessions of each")
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
        hunts = {pool.submit(hunt, bug, in_order(bug, seeds)[: given.most]): bug for bug in chosen}
        for done in as_completed(hunts):
            bug, line = hunts[done], done.result()
            missed += not is_seen(bug, line)
            print(f"{bug.name}\n    {row(bug, line)}; {line['took_s']:.0f} s", flush=True)
    took_s = time.monotonic() - began
    print(f"{len(chosen) - missed} of {len(chosen)} bugs caught on {len(seeds)} clean seeds, {took_s:.0f} s")
    return int(missed > 0)


if __name__ == "__main__":
    sys.exit(main())
