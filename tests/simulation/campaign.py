"""Many sessions from seeds, on all cores, judged one by one: `make campaign SESSIONS=1000 SEED=1`.

Each session is one line of JSON in the results' file: its seed, what was planned, what the oracles found and measured,
and the hash of its trace. A campaign that was stopped goes on where it was, as long as the code is the same. At the end
stand tables: violations by kind with the first seed of each and the faults of those sessions, faults against oracles,
rows of the fault catalogue that were reached, and what it cost.
"""

from __future__ import annotations

import argparse
import gc
import hashlib
import json
import logging
import multiprocessing
import os
import re
import sys
import time
import traceback
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from tqdm import tqdm

from simulation.evidence import Evidence
from simulation.kinds import KINDS
from simulation.oracles import LEAST_ORDERS, MOST_IDLE, campaign_violations, entry_times, judge, measure
from simulation.plans import Plan, clean_plan, draw_plan, is_recoverable
from simulation.remains import trace_hash
from simulation.scenario import WORKPLACES, memory, play
from simulation.strikes import is_of_harness

Json = dict[str, Any]
ROOT = Path(__file__).parents[2]
SOURCES = ("voltrade", "tests/simulation")
NOT_PLAYED = re.compile(r"/(test_\w+|stories/.*|seeds/.*|planted\w*|shrink)\b")
"""Of the simulator, what no session depends on."""
ROWS = {kind.name: kind.rows for kind in KINDS}
CHUNK = 4
"""Sessions that a worker takes at a time."""
LEAST_STRUCK = 20
"""Of 1,000 sessions, in how many each kind of fault must strike."""
MANY, PLANNED = 1_000, 40
"""So many sessions are judged by that; of fewer, kinds that were planned in so many and struck in none."""
LEAST_COMPARED = 5
"""Decisions of a session that are held against the backtest; fewer prove little, and a fifth of the sessions may."""
TEXT, BLAMED = 110, 4
"""Length of a violation's text, and how many kinds of faults are told of it."""


# --- one session ------------------------------------------------------------------------------------------------------


def session(seed: int, clean: bool = False) -> Json:
    """Play and judge the session of a seed; return its line."""
    return session_of(clean_plan(seed) if clean else draw_plan(seed), clean)


def session_of(plan: Plan, clean: bool = False) -> Json:
    """Play and judge a plan; return its line. A clean one is held against the backtest too."""
    began = time.process_time()
    line: Json = {"seed": plan.seed, "kinds": list(plan.kinds)}
    try:
        line |= _judged(plan, _played_with_clean(plan))
        line |= _held_against_backtest(plan.seed) if clean else {}
    except Exception as error:
        line["broken"] = "".join(traceback.format_exception(error))[-2_000:]
    line["cpu_s"] = round(time.process_time() - began, 3)
    return line


def _played_with_clean(plan: Plan) -> Evidence:
    """Play a plan; where it can be recovered from, also without its faults, to count how many entries those cost."""
    evidence = play(plan)
    if not plan.strikes or not is_recoverable(plan):
        return evidence
    return replace(evidence, clean_entries=entry_times(play(_without_faults(plan), is_replayed=False)))


def _held_against_backtest(seed: int) -> Json:
    """Return what the session without faults and without latency decides otherwise than the backtest, how much was
    compared, and when that stopped."""
    from simulation import backtested  # imports pandas, which a session without a backtest does not need

    plan = clean_plan(seed, latency_s=(0.0, 0.0))
    found = backtested.compared(plan, play(plan, is_replayed=False))
    return {"differences": found.differences, "compared": found.decisions, "cut_s": found.cut_s}


def _without_faults(plan: Plan) -> Plan:
    return replace(plan, strikes=(), kinds=(), rows=())


def _judged(plan: Plan, evidence: Evidence) -> Json:
    found = judge(evidence)
    return {
        "trace": trace_hash(evidence),
        "violations": [[each.oracle, each.kind, each.time - evidence.opened, each.text] for each in found],
        "measures": measure(evidence),
        "struck": strikes_by_kind(plan, evidence),
        "lives": [[life.how, life.reason[:200]] for life in evidence.lives],
    }


MOVES_ORDERS = (
    "cancel_stops",
    "expire_stops",
    "forget_stops",
    "liquidate",
    "deleverage",
)
"""Strikes of the venue that met nothing where no order changed with them."""


def strikes_by_kind(plan: Plan, evidence: Evidence) -> Json:
    """Count how often each kind of fault struck: the venue's by its log, the harness's own where they met an engine."""
    at_the_venue = [number for number, strike in enumerate(plan.strikes) if not is_of_harness(strike)]
    by_number = Counter(_with_effect(evidence))
    times = {place: by_number[number] for number, place in enumerate(at_the_venue)}
    return {
        name: times.get(place, evidence.struck.get(place, 0))
        for place, (name, _) in enumerate(zip(plan.kinds, plan.strikes, strict=False))
    }


def _with_effect(evidence: Evidence) -> Iterator[int]:
    """Numbers of the venue's strikes, each as often as it struck: not where it failed, or nothing was there to strike.

    The venue notes a strike before it acts; what comes of it follows at the same time.
    """
    failed = {(row["time"], row["do"]) for row in evidence.of_kind("fault") if "failed" in row}
    changed = {row["time"] for row in evidence.of_kind("order", "algo", "fill")}
    for row in evidence.of_kind("fault"):
        is_idle = row["do"] in MOVES_ORDERS and row["time"] not in changed
        if "number" in row and not is_idle and (row["time"], row["do"]) not in failed:
            yield row["number"]


# --- many of them -----------------------------------------------------------------------------------------------------


class OtherCode(ValueError):
    """Results of other code, or of other sessions, can't be gone on with."""


def campaign(
    seeds: Sequence[int], results: Path, *, workers: int, clean: bool = False, quiet: bool = False
) -> list[Json]:
    """Play the seeds that the results' file does not hold yet; return all lines of these seeds in their order.

    Raises:
        OtherCode: the file is of other code, or of sessions with faults where these are without, or the reverse.
    """
    head = {"code": code_hash(), "clean": clean}
    known = {line["seed"]: line for line in _begun(results, head)}
    left = [seed for seed in seeds if seed not in known]
    with results.open("a") as file:
        for line in tqdm(_played(left, workers, clean), total=len(left), unit="session", disable=quiet):
            file.write(json.dumps(line) + "\n")
            file.flush()
            known[line["seed"]] = line
    return [known[seed] for seed in seeds]


def code_hash() -> str:
    """Return a hash of all that a session's course depends on: the program and the simulator."""
    digest = hashlib.sha256()
    for folder in SOURCES:
        for path in sorted((ROOT / folder).rglob("*")):
            name = f"{path.relative_to(ROOT)}"
            if path.suffix in (".py", ".json") and not NOT_PLAYED.search(name):
                digest.update(f"{name}\0".encode() + path.read_bytes())
    return digest.hexdigest()[:16]


def _begun(results: Path, head: Json) -> list[Json]:
    """Return the lines of a results' file, which is begun where it is not there; half a line at its end is dropped."""
    if not results.exists():
        results.parent.mkdir(parents=True, exist_ok=True)
        results.write_text(json.dumps(head) + "\n")
        return []
    text = results.read_text()
    first, *lines = text[: text.rfind("\n") + 1].splitlines() or [""]
    if not first or json.loads(first) != head:
        raise OtherCode(f"{results}: must be of {head}, is of {first}")
    results.write_text("".join(f"{line}\n" for line in (first, *lines)))
    return [json.loads(line) for line in lines]


def _played(seeds: Sequence[int], workers: int, clean: bool) -> Iterator[Json]:
    if workers == 1 or len(seeds) < 2:
        with _nothing_logged():
            yield from (session(seed, clean) for seed in seeds)
        return
    # Spawned, not forked: a fork of a process with threads may hang.
    # Their folders are removed here: a worker of a pool is ended by a signal.
    processes = multiprocessing.get_context("spawn")
    with (
        TemporaryDirectory(prefix="voltrade-campaign-", dir=memory()) as folder,
        processes.Pool(workers, _prepare, (folder,)) as pool,
    ):
        yield from pool.imap_unordered(partial(_in_worker, clean=clean), seeds, chunksize=CHUNK)


@contextmanager
def _nothing_logged() -> Iterator[None]:
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        yield
    finally:
        logging.disable(before)


def _prepare(folder: str) -> None:
    """In each worker: its sessions are played in this folder, nothing is logged, no garbage collected meanwhile."""
    os.environ[WORKPLACES] = folder
    logging.disable(logging.CRITICAL)
    gc.disable()


def _in_worker(seed: int, clean: bool) -> Json:
    began = time.process_time()
    line = session(seed, clean)
    gc.collect()
    gc.freeze()  # what is left is kept by libraries: it is looked at no more
    return line | {"cpu_s": round(time.process_time() - began, 3)}


def is_broken(line: Json) -> bool:
    """Whether a session broke a rule, differs from the backtest, or broke the simulator."""
    return bool(line.get("violations") or line.get("differences") or "broken" in line)


def hardly_compared(lines: Sequence[Json]) -> list[Json]:
    """Return the sessions of which next to nothing was held against the backtest, where these are too many."""
    those = [line for line in lines if "compared" in line]
    few = [line for line in those if line["compared"] < LEAST_COMPARED]
    return few if len(few) > MOST_IDLE * len(those) else []


# --- what came of it --------------------------------------------------------------------------------------------------


def summary(lines: Sequence[Json]) -> str:
    """Write what a campaign found: violations, faults against oracles, rows, costs."""
    broken = [line for line in lines if "broken" in line]
    other = [line for line in lines if line.get("differences")]
    parts = [f"{len(lines)} sessions, {sum(bool(line.get('violations')) for line in lines)} with violations"]
    parts += _violations(lines)
    measures = [line["measures"] for line in lines if "measures" in line]
    parts += [f"  over all: {found.oracle} {found.kind}: {found.text}" for found in campaign_violations(measures)]
    parts += _halted(measures) + _entered(measures) + _compared(lines)
    if other:
        parts += [f"  {len(other)} differ from the backtest: seed {other[0]['seed']}: {other[0]['differences'][0]}"]
    if broken:
        parts += [f"  the simulator broke in {len(broken)}: seed {broken[0]['seed']}: {broken[0]['broken'][-300:]}"]
    return "\n".join([*parts, *_faults_by_oracles(lines), *_rare(lines), *_reached(lines), *_costs(lines)])


def _compared(lines: Sequence[Json]) -> list[str]:
    """How much was held against the backtest, where that stopped early, and which sessions were hardly compared."""
    those = [line for line in lines if "compared" in line]
    cut, few = [line for line in those if line["cut_s"] is not None], hardly_compared(those)
    if not those:
        return []
    total, least = sum(line["compared"] for line in those), min(line["compared"] for line in those)
    told = [f"held against the backtest: {total} decisions of {len(those)} sessions, at least {least} of one"]
    if cut:
        seeds = ", ".join(f"{line['seed']} at {line['cut_s']:.0f} s" for line in cut)
        told += [f"  not after a millisecond in which bars signal both sides: {seeds}"]
    if few:
        seeds = ", ".join(str(line["seed"]) for line in few)
        many = f"{len(few)} of {len(those)} sessions"
        told += [f"  over all: {many} compare fewer than {LEAST_COMPARED} decisions: {seeds}"]
    return told


def _halted(measures: Sequence[Json]) -> list[str]:
    """How many sessions that should trade on ended halted: by entries that faults kept back, and by anything else."""
    those = [each for each in measures if each["recoverable"]]
    halted = [each for each in those if each["halted"]]
    seeds = [[each["seed"] for each in halted if each["held_back"] is is_so] for is_so in (True, False)]
    by_faults, others = (f"{len(each)}{f' ({str(each)[1:-1]})' if each else ''}" for each in seeds)
    return [
        f"halted at the end, of {len(those)} sessions with faults that can be recovered from: {by_faults} after "
        f"entries in a row that those faults kept back, by the venue's log; {others} by anything else"
    ]


def _entered(measures: Sequence[Json]) -> list[str]:
    """How many entries were due and sent, in sessions whose faults can be recovered from, and what those cost."""
    those = [each for each in measures if each["recoverable"]]
    faulty = [each for each in those if each["strikes"]]
    sent, due = (sum(each[name] for each in those) for name in ("entries_sent", "entries_expected"))
    entered, clean = (sum(each[name] for each in faulty) for name in ("entries", "entries_clean"))
    return [
        f"entries that were due outside of faults that can be recovered from: {sent} of {due} sent; in all, {entered} "
        f"under such faults and {clean} in the same sessions without"
    ]


def _violations(lines: Sequence[Json]) -> list[str]:
    """Lines for each kind of violation: how many sessions, the first of them, and the faults that they share most."""
    sessions: dict[tuple[str, str], list[Json]] = defaultdict(list)
    for line in lines:
        for key in {(oracle, kind) for oracle, kind, *_ in line.get("violations", ())}:
            sessions[key].append(line)
    told = []
    for (oracle, kind), those in sorted(sessions.items(), key=lambda each: (-len(each[1]), each[0])):
        text = next(text for first, what, _, text in those[0]["violations"] if (first, what) == (oracle, kind))
        told += [f"  {oracle:4} {kind:28} {len(those):5}  first seed {those[0]['seed']}: {text[:TEXT]}"]
        told += [f"       with {', '.join(_blamed(those, lines))}"] if any(line["kinds"] for line in those) else []
    return told


def _blamed(those: Sequence[Json], lines: Sequence[Json]) -> list[str]:
    """The kinds of faults that are more often in those sessions than in all."""
    here, usual = _struck(those), _struck(lines)
    more = {name: here[name] / len(those) - usual[name] / len(lines) for name in here}
    return [f"{name} {here[name]}" for name in sorted(more, key=lambda name: (-more[name], name))[:BLAMED]]


def _struck(lines: Iterable[Json]) -> Counter[str]:
    return Counter(name for line in lines for name in line["kinds"])


def _faults_by_oracles(lines: Sequence[Json]) -> list[str]:
    """A table: how often each kind of fault struck, and in how many sessions; and how many of those broke a rule."""
    usual, times = _struck(lines), Counter[str]()
    for line in lines:
        times.update(line.get("struck", {}))
    fired = {line["seed"]: {oracle for oracle, *_ in line.get("violations", ())} for line in lines}
    oracles = sorted({oracle for each in fired.values() for oracle in each}, key=lambda name: int(name[1:]))
    if not usual:
        return []
    table = [f"{'fault':24}{'planned':>8}{'in':>6}{'struck':>8}" + "".join(f"{oracle:>6}" for oracle in oracles)]
    for name in ROWS:
        those = [fired[line["seed"]] for line in lines if name in line["kinds"]]
        counts = [sum(oracle in each for each in those) for oracle in oracles]
        met = len(_met_by(name, lines))
        table += [f"{name:24}{usual[name]:8}{met:6}{times[name]:8}" + "".join(f"{each or '':>6}" for each in counts)]
    return table


def _met_by(name: str, lines: Iterable[Json]) -> list[Json]:
    """The sessions in which a kind of fault struck."""
    return [line for line in lines if line.get("struck", {}).get(name)]


def _rare(lines: Sequence[Json]) -> list[str]:
    """Kinds of faults that strike in too few sessions."""
    if not _struck(lines):
        return []
    rare = [f"{name} {len(_met_by(name, lines))}" for name in ROWS if _is_rare(name, lines)]
    return [f"strike in fewer than {LEAST_STRUCK} of 1,000 sessions: {', '.join(rare) or 'none'}"]


def _is_rare(name: str, lines: Sequence[Json]) -> bool:
    return len(_met_by(name, lines)) * 1_000 < LEAST_STRUCK * len(lines)


def too_rare(lines: Sequence[Json]) -> list[str]:
    """Return the kinds of faults that struck too rarely for the campaign to say anything of them."""
    planned = _struck(lines)
    if len(lines) >= MANY and planned:
        return [name for name in ROWS if _is_rare(name, lines)]
    return [name for name in planned if planned[name] >= PLANNED and not _met_by(name, lines)]


def _reached(lines: Sequence[Json]) -> list[str]:
    reached = sorted({row for name in _struck(lines) for row in ROWS[name]}, key=lambda row: (row[0], int(row[1:])))
    return [f"rows of the catalogue reached: {', '.join(reached)}"] if reached else []


def _costs(lines: Sequence[Json]) -> list[str]:
    busy = [line for line in lines if line.get("measures", {}).get("orders", 0) >= LEAST_ORDERS] or lines
    cpu = sorted(line["cpu_s"] for line in busy)
    mean = sum(cpu) / len(cpu)
    orders, strikes, met = (
        sum(line["measures"][name] for line in lines if "measures" in line) / len(lines)
        for name in ("orders", "strikes", "met")
    )
    return [
        f"CPU of a session with {LEAST_ORDERS} orders or more: median {cpu[len(cpu) // 2]:.2f} s, mean {mean:.2f} s, "
        f"longest {cpu[-1]:.2f} s; over all "
        f"{orders:.0f} orders; {strikes:.1f} faults, of which {met:.1f} met a position or an order; "
        f"{sum(sum(line.get('struck', {}).values()) for line in lines) / len(lines):.0f} times that any struck"
    ]


def main(argv: Iterable[str] | None = None) -> int:
    """Run a campaign; the exit status says whether a rule was broken."""
    form = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(prog="make campaign", description=__doc__, formatter_class=form)
    parser.add_argument("--sessions", type=int, default=1_000, help="how many (SESSIONS=)")
    parser.add_argument("--seed", type=int, default=1, help="of the first (SEED=)")
    parser.add_argument("--workers", type=int, default=multiprocessing.cpu_count(), help="processes")
    parser.add_argument("--clean", action="store_true", help="without faults, and held against the backtest")
    parser.add_argument("--results", type=Path, help="the file to go on with, of these seeds and this code")
    parser.add_argument("--tell", type=Path, metavar="RESULTS", help="write a results' file as tables, play nothing")
    given = parser.parse_args(None if argv is None else list(argv))
    if given.tell:
        print(summary([json.loads(line) for line in given.tell.read_text().splitlines()[1:]]))
        return 0
    name = f"campaign-{code_hash()}-{'clean-' if given.clean else ''}{given.seed}-{given.sessions}.jsonl"
    results, began = given.results or Path("build") / name, time.monotonic()
    seeds = range(given.seed, given.seed + given.sessions)
    try:
        lines = campaign(seeds, results, workers=given.workers, clean=given.clean)
    except OtherCode as error:
        parser.error(str(error))
    print(summary(lines))
    over_all = campaign_violations([line["measures"] for line in lines if "measures" in line])
    print(f"{time.monotonic() - began:.0f} s; a line for each session in {results}")
    print("make one small: python -m simulation.shrink SEED")
    return int(bool(over_all or hardly_compared(lines) or too_rare(lines)) or any(map(is_broken, lines)))


if __name__ == "__main__":
    sys.exit(main())
