"""Make a failing session small: the fewest faults, then the shortest time, that still break the same rule.

`python -m simulation.shrink SEED` prints the scenario to paste into a test, and keeps the plan in `seeds/` with the
rules that it breaks. A test plays what is kept: when the fault is mended, its `breaks` becomes `[]`; the plan stays.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path

from simulation.clock import BEGIN_MS
from simulation.evidence import Json
from simulation.oracles import judge
from simulation.plans import HISTORY_S, QUIET_S, RULE, TAPE_S, Plan, draw_plan
from simulation.scenario import play
from simulation.tapes import drawn_tape

SEEDS = Path(__file__).parent / "seeds"

OWN_RULE = "buys.py:Buys"
"""What stands in a kept plan for the rule file of the simulator."""
SOON_S = 60.0
Fails = Callable[[Plan], bool]
Rules = set[tuple[str, str]]
"""Oracle and kind of violations."""


def breaks(plan: Plan) -> Rules:
    """Return the rules that a plan breaks: oracle and kind of each violation."""
    return {(found.oracle, found.kind) for found in judge(play(plan))}


def shrink(plan: Plan, fails: Fails) -> Plan:
    """Return the smallest plan found that still fails: as short as can be, without faults that are not needed."""
    return shorter(unseen(fewer(earlier(plan, fails), fails), fails), fails)


def earlier(plan: Plan, fails: Fails) -> Plan:
    """End the session after its first faults, where it fails by then: what is tried after that is tried fast."""
    count = 1
    while count < len(plan.strikes):
        tried = ended(without(plan, count, len(plan.strikes)), SOON_S)
        if fails(tried):
            return tried
        count *= 2
    return plan


def fewer(plan: Plan, fails: Fails) -> Plan:
    """Leave out faults: halves, quarters, and so on to single ones, as long as it fails without them."""
    size = max(len(plan.strikes) // 2, 1)
    while plan.strikes:
        for start in range(0, len(plan.strikes), size):
            tried = without(plan, start, start + size)
            if fails(tried):
                plan = tried
                break
        else:
            if size == 1:
                return plan
            size //= 2
        size = min(size, max(len(plan.strikes), 1))
    return plan


def unseen(plan: Plan, fails: Fails) -> Plan:
    """Leave out the operator who resumes, if it fails without."""
    tried = replace(plan, looks_s=())
    return tried if plan.looks_s and fails(tried) else plan


def without(plan: Plan, first: int, end: int) -> Plan:
    """Leave out some of the faults."""
    cut = {name: (*getattr(plan, name)[:first], *getattr(plan, name)[end:]) for name in ("strikes", "kinds", "rows")}
    return replace(plan, **cut)


def shorter(plan: Plan, fails: Fails) -> Plan:
    """End the session soon after the last fault that is left, or later, as long as it must."""
    for spare_s in (20.0, SOON_S, 120.0, 240.0):
        tried = ended(plan, spare_s)
        if tried.faults_s >= plan.faults_s:
            break
        if fails(tried):
            return tried
    return plan


def ended(plan: Plan, spare_s: float) -> Plan:
    """End a session, with its quiet minute, so long after its last fault."""
    faults_s = max([at + for_s for at, _, for_s, _ in plan.strikes], default=0.0) + spare_s
    return replace(plan, faults_s=faults_s, settings={**plan.settings, "duration_s": round(faults_s + QUIET_S, 1)})


def written(plan: Plan, tape_s: float) -> Json:
    """Return a drawn plan as plain JSON; its tape by seed and length."""
    return {
        "seed": plan.seed,
        "settings": _with(plan.settings, RULE, OWN_RULE),
        "tape_s": tape_s,
        "dense_s": HISTORY_S,
        "begin_s": plan.begin_s,
        "strikes": [list(strike) for strike in plan.strikes],
        "faults_s": plan.faults_s,
        "restart_s": plan.restart_s,
        "kinds": list(plan.kinds),
        "rows": list(plan.rows),
        "opens_ms": plan.opens_ms,
        "looks_s": list(plan.looks_s),
    }


def read(kept: Json) -> Plan:
    """Make a plan again that `written` wrote."""
    strikes = tuple((at, kind, for_s, facts) for at, kind, for_s, facts in kept["strikes"])
    tape = drawn_tape(kept["seed"], kept["tape_s"], kept.get("dense_s", 0.0))
    times = (kept["begin_s"], strikes, kept["faults_s"], kept["restart_s"])
    settings = _with(kept["settings"], OWN_RULE, RULE)
    named = {"kinds": tuple(kept["kinds"]), "rows": tuple(kept["rows"]), "looks_s": tuple(kept.get("looks_s", ()))}
    return Plan(kept["seed"], settings, tape, *times, **named, opens_ms=kept.get("opens_ms", BEGIN_MS))


def _with(settings: Json, rule: str, instead: str) -> Json:
    """Name the simulator's own rule file in another way: no kept plan shall hold where a checkout lies."""
    return {**settings, "rule": instead} if settings.get("rule") == rule else settings


def as_story(plan: Plan, rules: Rules) -> str:
    """Write a plan as a scenario for a test."""
    strikes = [_call("at", [at, kind, for_s], facts) for at, kind, for_s, facts in plan.strikes]
    settings = {name: value for name, value in plan.settings.items() if name not in ("seed", "symbol", "speed")}
    given = [
        f"tape=drawn_tape({plan.seed}, TAPE_S, HISTORY_S)",
        f"seed={plan.seed}",
        f"begin_s={plan.begin_s}",
        f"faults_s={plan.faults_s}",
        f"opens_ms={plan.opens_ms}",
        f"looks_s={plan.looks_s}",
    ]
    given += [f"{name}={value!r}" for name, value in settings.items()]
    names = ", ".join(sorted(f"{oracle} {kind}" for oracle, kind in rules))
    lines = [f"    {each}," for each in (*strikes, *given)]
    return "\n".join([f"# seed {plan.seed}: {names}", "evidence = scenario(", *lines, ")"])


def _call(name: str, values: list[object], facts: Json) -> str:
    named = {"with_" if key == "with" else key: value for key, value in facts.items()}
    return f"{name}({', '.join([*map(repr, values), *(f'{key}={value!r}' for key, value in named.items())])})"


def shrunk(seed: int, oracle: str = "") -> tuple[Plan, Rules]:
    """Shrink the session of a seed until no smaller one breaks a rule of the oracle, or any where none is named.

    Returns: the plan that is left, and the rules that it breaks; none where the whole one breaks none.
    """
    plan = draw_plan(seed)
    broken = {rule for rule in breaks(plan) if rule[0] == oracle or not oracle}
    if not broken:
        return plan, set()
    small = shrink(plan, lambda tried: bool(broken & breaks(tried)))
    return small, breaks(small)


def keep(plan: Plan, rules: Rules, folder: Path = SEEDS) -> Path:
    """Keep a plan with the rules that it breaks; return its file."""
    folder.mkdir(exist_ok=True)
    path = folder / f"{plan.seed}-{'-'.join(sorted({oracle for oracle, _ in rules}))}.json"
    path.write_text(json.dumps({**written(plan, TAPE_S), "breaks": sorted(rules)}, indent=1) + "\n")
    return path


def kept(folder: Path = SEEDS) -> list[Path]:
    """Return the files of the plans that are kept."""
    return sorted(path for path in folder.glob("*.json") if path.name[0].isdigit())


def main(argv: Iterable[str] | None = None) -> int:
    """Shrink the session of a seed, or of each, and keep it."""
    parser = argparse.ArgumentParser(prog="python -m simulation.shrink", description=__doc__)
    parser.add_argument("seeds", nargs="+", type=int, metavar="SEED")
    parser.add_argument("--oracle", default="", help="whose rule is to be broken, such as O5; any without it")
    given = parser.parse_args(None if argv is None else list(argv))
    for seed in given.seeds:
        plan, rules = shrunk(seed, given.oracle)
        if rules:
            keep(plan, rules)
        print(as_story(plan, rules) if rules else f"seed {seed}: no such rule is broken")
    return 0


if __name__ == "__main__":
    sys.exit(main())
