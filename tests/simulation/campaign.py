"""Many sessions from seeds, on all cores, judged one by one: `make campaign SESSIONS=1000 SEED=1`.

Each session is one line of JSON in the results' file: its seed, what was planned, what the oracles found and measured,
and the hash of its trace. A campaign that was stopped goes on where it was. At the end stands a table: violations by
kind with the first seed of each, faults by kind with how often they struck, rows of the fault catalogue that were
reached, and what it cost.
"""

from __future__ import annotations

import argparse
import gc
import json
import logging
import multiprocessing
import sys
import time
import traceback
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from tqdm import tqdm

from simulation.kinds import KINDS
from simulation.oracles import campaign_violations, judge, measure
from simulation.plans import clean_plan, draw_plan
from simulation.remains import trace_hash
from simulation.scenario import play

Json = dict[str, Any]
ROWS = {kind.name: kind.rows for kind in KINDS}
SHOWN = 40


def session(seed: int, clean: bool = False) -> Json:
    """Play and judge one session; return its line."""
    began = time.process_time()
    plan = clean_plan(seed) if clean else draw_plan(seed)
    line: Json = {"seed": seed, "clean": clean, "kinds": list(plan.kinds)}
    try:
        evidence = play(plan)
        found = judge(evidence)
        line |= {
            "trace": trace_hash(evidence),
            "violations": [[each.oracle, each.kind, each.time - evidence.opened, each.text] for each in found],
            "measures": measure(evidence),
            "lives": [[life.how, life.reason[:200]] for life in evidence.lives],
        }
    except Exception as error:
        line["broken"] = "".join(traceback.format_exception(error))[-2_000:]
    gc.collect()
    line["cpu_s"] = round(time.process_time() - began, 3)
    return line


def _prepare() -> None:
    """In each worker: no log, and garbage is collected between sessions."""
    logging.disable(logging.CRITICAL)
    gc.disable()


def _clean_session(seed: int) -> Json:
    return session(seed, clean=True)


def campaign(
    seeds: Sequence[int], results: Path, *, workers: int, clean: bool = False, quiet: bool = False
) -> list[Json]:
    """Play the seeds that the results' file does not hold yet; return all lines of these seeds in their order."""
    known = {line["seed"]: line for line in _read(results) if line["clean"] == clean}
    left = [seed for seed in seeds if seed not in known]
    results.parent.mkdir(parents=True, exist_ok=True)
    with results.open("a") as file:
        for line in tqdm(_played(left, workers, clean), total=len(left), unit="session", disable=quiet):
            file.write(json.dumps(line) + "\n")
            file.flush()
            known[line["seed"]] = line
    return [known[seed] for seed in seeds]


def _played(seeds: Sequence[int], workers: int, clean: bool) -> Iterator[Json]:
    one = _clean_session if clean else session
    if workers == 1 or len(seeds) < 2:
        _prepare()
        yield from map(one, seeds)
        return
    # Spawned, not forked: a fork of a process with threads may hang.
    with multiprocessing.get_context("spawn").Pool(workers, _prepare) as pool:
        yield from pool.imap_unordered(one, seeds, chunksize=4)


def _read(results: Path) -> list[Json]:
    if not results.exists():
        return []
    return [json.loads(line) for line in results.read_text().splitlines() if line.endswith("}")]


def summary(lines: Sequence[Json]) -> str:
    """Write what a campaign found: violations, faults, rows, costs."""
    kinds: Counter[tuple[str, str]] = Counter()
    first: dict[tuple[str, str], tuple[int, str]] = {}
    blamed: dict[tuple[str, str], Counter[str]] = defaultdict(Counter)
    struck: Counter[str] = Counter()
    for line in lines:
        struck.update(line["kinds"])
        for key in {(oracle, kind) for oracle, kind, *_ in line.get("violations", ())}:
            text = next(text for oracle, kind, _, text in line["violations"] if (oracle, kind) == key)
            kinds[key] += 1
            first.setdefault(key, (line["seed"], text))
            blamed[key].update(line["kinds"])
    parts = [f"{len(lines)} sessions, {sum(bool(line.get('violations')) for line in lines)} with violations"]
    parts += [
        f"  {oracle:4} {kind:32} {count:5}  first seed {first[oracle, kind][0]}: {first[oracle, kind][1][: SHOWN * 3]}"
        for (oracle, kind), count in kinds.most_common()
    ]
    parts += [
        f"  over all: {text}"
        for text in campaign_violations([line["measures"] for line in lines if "measures" in line])
    ]
    broken = [line for line in lines if "broken" in line]
    parts += (
        [f"  the harness broke in {len(broken)}: seed {broken[0]['seed']}: {broken[0]['broken'][-300:]}"]
        if broken
        else []
    )
    parts += ["faults planned, each kind: " + ", ".join(f"{name} {struck[name]}" for name in ROWS)] if struck else []
    reached = sorted({row for name in struck for row in ROWS[name]}, key=lambda row: (row[0], int(row[1:])))
    parts += [f"rows of the catalogue reached: {', '.join(reached)}"] if reached else []
    cpu = sorted(line["cpu_s"] for line in lines)
    parts += [
        f"CPU a session: median {cpu[len(cpu) // 2]:.2f} s, mean {sum(cpu) / len(cpu):.2f} s, longest {cpu[-1]:.2f} s"
    ]
    return "\n".join(parts)


def main(argv: Iterable[str] | None = None) -> int:
    """Run a campaign; the exit status says whether a rule was broken."""
    parser = argparse.ArgumentParser(
        prog="make campaign", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--sessions", type=int, default=1_000, help="how many (SESSIONS=)")
    parser.add_argument("--seed", type=int, default=1, help="of the first (SEED=)")
    parser.add_argument("--workers", type=int, default=multiprocessing.cpu_count(), help="processes")
    parser.add_argument("--clean", action="store_true", help="without faults")
    parser.add_argument("--results", type=Path, help="the file to go on with; a new one for other seeds or code")
    given = parser.parse_args(None if argv is None else list(argv))
    results = (
        given.results
        or Path("build") / f"campaign-{'clean-' if given.clean else ''}{given.seed}-{given.sessions}.jsonl"
    )
    began = time.monotonic()
    lines = campaign(range(given.seed, given.seed + given.sessions), results, workers=given.workers, clean=given.clean)
    print(summary(lines))
    print(f"{time.monotonic() - began:.0f} s; lines in {results}")
    return int(any(line.get("violations") or "broken" in line for line in lines))


if __name__ == "__main__":
    sys.exit(main())
