"""Plans: enough faults of enough classes, each kind as likely, every row of the catalogue spoken for, all settings."""

from __future__ import annotations

import json
from collections import Counter
from typing import Any

import pytest

from simulation.clock import BEGIN_MS
from simulation.kinds import KINDS, NOT_REACHED, RECOVERABLE, RECOVERABLE_KINDS, row_of
from simulation.plans import LAST_FAULT_S, QUIET_S, TAPE_S, draw_faults, draw_plan, draw_settings, is_recoverable
from simulation.shrink import read, written
from simulation.strikes import Strikes
from voltrade.model import DAY_MS
from voltrade.strategy.rule_file import read_parameters
from voltrade.venue.faults import KINDS as AT_THE_VENUE
from voltrade.venue.faults import Fault

SEEDS = range(1, 2_001)
ROWS = {"A": 13, "B": 17, "C": 8, "D": 8, "E": 14, "F": 10, "G": 6}
"""Sections of the fault catalogue and how many rows each has."""


@pytest.fixture(scope="module")
def drawn() -> list[list[str]]:
    """The kinds of faults of 2,000 plans."""
    return [[kind.name for kind, _ in draw_faults(seed)] for seed in SEEDS]


@pytest.fixture(scope="module")
def settings() -> list[dict[str, Any]]:
    """The settings of 200 sessions."""
    return [draw_settings(seed) for seed in range(1, 201)]


def test_each_plan_has_ten_faults_of_four_classes(drawn: list[list[str]]) -> None:
    group = {kind.name: kind.group for kind in KINDS}
    assert min(len(set(names)) for names in drawn) >= 10
    assert min(len({group[name] for name in names}) for names in drawn) >= 4


def test_kinds_are_drawn_evenly(drawn: list[list[str]]) -> None:
    """Chi-square over the plans of all kinds: not larger than in one of 10,000 fair draws, nor is any kind rare."""
    struck = Counter(name for seed, names in zip(SEEDS, drawn, strict=True) if seed % 5 for name in names)
    mean = struck.total() / len(KINDS)
    chi_square = sum((struck[kind.name] - mean) ** 2 / mean for kind in KINDS)
    freedom = len(KINDS) - 1
    assert chi_square < freedom + 4 * (2 * freedom) ** 0.5
    assert min(struck[kind.name] for kind in KINDS) > 0.8 * mean


def test_every_fifth_plan_can_be_recovered_from(drawn: list[list[str]]) -> None:
    recoverable = {kind.name for kind in RECOVERABLE_KINDS}
    mixed = [set(names) <= recoverable for names in drawn]
    assert all(mixed[number] for number, seed in enumerate(SEEDS) if seed % 5 == 0)
    assert sum(mixed) < 0.4 * len(mixed)
    assert all(row_of(name) in RECOVERABLE for name in recoverable)


def test_every_row_of_the_catalogue_is_reached_or_said_not_to_be() -> None:
    rows = {f"{section}{number}" for section, count in ROWS.items() for number in range(1, count + 1)}
    reached = {row for kind in KINDS for row in kind.rows}
    assert reached | set(NOT_REACHED) == rows
    assert reached & set(NOT_REACHED) == set()


def test_each_kind_has_a_name_of_its_own() -> None:
    assert len({kind.name for kind in KINDS}) == len(KINDS)


def test_faults_end_before_it_is_to_be_quiet(drawn: list[list[str]]) -> None:
    for seed in range(1, 101):
        plan = draw_plan(seed)
        assert all(5 <= at <= LAST_FAULT_S for at, *_ in plan.strikes)
        ends = [at + max(for_s, facts.get("for_s", 0.0)) for at, _, for_s, facts in plan.strikes]
        waits = [facts for *_, for_s, facts in plan.strikes if not for_s and "until_s" in facts]
        assert max(ends + [facts["until_s"] + facts.get("for_s", 0.0) for facts in waits]) <= plan.faults_s


def test_after_the_quiet_minute_a_session_has_time_for_signals() -> None:
    """A hundred seconds: at two trades in three seconds some seven bars of 22 trades."""
    plan = draw_plan(1)
    assert plan.settings["duration_s"] - plan.faults_s - QUIET_S >= 100


def test_each_strike_is_one_that_somebody_carries_out() -> None:
    """A strike of the venue's is a fault that its script takes; the others are the harness's own."""
    for seed in range(1, 101):
        for at, kind, for_s, facts in draw_plan(seed).strikes:
            if kind == "when_ordered":
                assert Fault(**{"do": facts["do"], "with": facts["with"]}).do in AT_THE_VENUE
            elif not hasattr(Strikes, f"do_{kind}"):
                assert Fault(**{"do": kind, "at_s": at, "for_s": for_s, **facts}).do in AT_THE_VENUE


def test_a_seed_draws_the_same_plan_again() -> None:
    first, again, other = draw_plan(7), draw_plan(7), draw_plan(8)
    assert (first.settings, first.strikes, first.kinds) == (again.settings, again.strikes, again.kinds)
    assert list(first.tape.rows()) == list(again.tape.rows())
    assert first.strikes != other.strikes
    assert list(first.tape.rows()) != list(other.tape.rows())


def test_every_fourth_session_has_a_day_that_ends_in_it() -> None:
    """Late enough that its history lies in the old day, early enough that faults strike in the new one."""
    ends = {seed: draw_plan(seed).opens_ms % DAY_MS for seed in range(1, 41)}
    late = {seed: DAY_MS - at for seed, at in ends.items() if seed % 4 == 2}
    assert all(200_000 <= left <= 500_000 for left in late.values())
    assert len(set(late.values())) == 10
    assert {at for seed, at in ends.items() if seed % 4 != 2} == {BEGIN_MS % DAY_MS}


def test_a_plan_comes_back_from_its_file() -> None:
    for seed in (1, 2, 3):
        plan = draw_plan(seed)
        back = read(json.loads(json.dumps(written(plan, TAPE_S))))
        assert list(back.tape.rows()) == list(plan.tape.rows())
        for name in (
            "seed",
            "settings",
            "begin_s",
            "strikes",
            "faults_s",
            "restart_s",
            "kinds",
            "rows",
            "latency_s",
            "opens_ms",
            "looks_s",
        ):
            assert getattr(back, name) == getattr(plan, name), name


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("unit", {"trades", "base", "quote"}),
        ("anchor", {"utc_day", "continuous"}),
        ("entry", {"market", "ioc_limit"}),
        ("margin_type", {"isolated", "cross"}),
        ("working_type", {"CONTRACT_PRICE", "MARK_PRICE"}),
        ("on_duration_end", {"flatten", "protect"}),
        ("exit_on_opposite_signal", {True, False}),
        ("leverage", {5, 10, 20}),
        ("funding_rate", {0.0, 0.0001}),
        ("max_holding_s", {0.0, 20.0, 60.0}),
        ("max_holding_bars", {0, 3, 6, 10}),
    ],
)
def test_all_values_of_a_setting_are_drawn(settings: list[dict[str, Any]], name: str, values: set[Any]) -> None:
    assert {each[name] for each in settings} == values


def test_all_exits_and_both_sides_are_drawn(settings: list[dict[str, Any]]) -> None:
    assert {each["take_profit_atr"] > 0 for each in settings} == {True, False}
    assert {each.get("both_sides") for each in settings} == {True, False, None}
    assert all(each["stop_atr"] > 0 for each in settings)


def test_what_is_drawn_is_a_session_of_ours(settings: list[dict[str, Any]]) -> None:
    for each in settings[:20]:
        read_parameters(each)


def test_an_operator_looks_four_times_unless_all_must_recover_alone() -> None:
    for seed in range(1, 41):
        plan = draw_plan(seed)
        assert len(plan.looks_s) == (0 if is_recoverable(plan) else 4)
        assert list(plan.looks_s) == sorted(plan.looks_s)
        assert all(0 <= at <= plan.faults_s for at in plan.looks_s)
