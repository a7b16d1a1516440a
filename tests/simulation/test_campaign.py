"""Campaigns: a line a session, gone on with where they were stopped, and told in a table that names the first seed."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from simulation import backtested
from simulation import campaign as campaign_module
from simulation.campaign import OtherCode, campaign, code_hash, main, session, strikes_by_kind, summary, too_rare
from simulation.evidence import Evidence
from simulation.kinds import KINDS
from simulation.plans import Plan, clean_plan
from simulation.scenario import at, play
from simulation.tapes import drawn_tape

Json = dict[str, Any]
MEASURES: Json = {
    **{
        "seed": 1,
        "recoverable": True,
        "halted": False,
        "held_back": False,
        "ended": True,
        "entries_expected": 10,
        "entries_sent": 10,
        "orders": 30,
    },
    **{"entries_clean": 10, "entries": 10, "strikes": 2, "met": 1},
}
UNCOVERED = ["O5", "uncovered", 61_000, "BTCUSDT: 0.250 uncovered for 9000 ms"]


def line(seed: int, kinds: list[str], violations: list[Any] | None = None) -> Json:
    return {
        "seed": seed,
        "kinds": kinds,
        "violations": violations or [],
        "measures": MEASURES,
        "cpu_s": 0.5,
        "struck": dict.fromkeys(kinds, 2),
    }


@pytest.fixture
def played(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Sessions are not played, but their seeds noted."""
    seeds: list[int] = []

    def noted(seed: int, clean: bool = False) -> Json:
        seeds.append(seed)
        return line(seed, ["kill"])

    monkeypatch.setattr(campaign_module, "session", noted)
    return seeds


def test_a_campaign_goes_on_where_it_was_stopped(played: list[int], tmp_path: Path) -> None:
    """The third line was being written when it was stopped."""
    results = tmp_path / "build" / "results.jsonl"
    whole = campaign(range(1, 4), results, workers=1, quiet=True)
    text = results.read_text()
    results.write_text(text[:-20])
    played.clear()
    assert campaign(range(1, 6), results, workers=1, quiet=True)[:3] == whole
    assert played == [3, 4, 5]
    assert [json.loads(each)["seed"] for each in results.read_text().splitlines()[1:]] == [1, 2, 3, 4, 5]


@pytest.mark.parametrize("other", [{"code": "0123456789abcdef", "clean": False}, {"clean": True}])
def test_results_of_other_code_or_sessions_are_not_gone_on_with(played: list[int], tmp_path: Path, other: Json) -> None:
    results = tmp_path / "results.jsonl"
    results.write_text(json.dumps({"code": code_hash(), **other}) + "\n")
    before = results.read_text()
    with pytest.raises(OtherCode, match="must be of"):
        campaign(range(1, 3), results, workers=1, quiet=True)
    with pytest.raises(SystemExit):
        main(["--sessions", "2", "--results", str(results)])
    assert played == []
    assert results.read_text() == before


def test_the_table_names_kinds_first_seeds_and_faults() -> None:
    lines = [line(seed, ["kill", "cut network"], [UNCOVERED] if seed >= 7 else []) for seed in range(5, 10)]
    lines += [line(seed, ["deposit"]) for seed in range(10, 15)]
    told = summary(lines)
    assert "10 sessions, 3 with violations" in told
    assert "uncovered                        3  first seed 7: BTCUSDT: 0.250 uncovered for 9000 ms" in told
    assert "with cut network 3, kill 3" in told
    [row] = [each for each in told.splitlines() if each[:24].strip() == "kill"]
    assert row.split() == ["kill", "5", "5", "10", "3"]
    assert "rows of the catalogue reached: A1, B8, E1, F7" in told
    assert "mean 0.50 s" in told


def test_what_strikes_too_rarely_is_named() -> None:
    """In a hundred sessions a kind must strike in two."""
    lines = [line(seed, [kind.name for kind in KINDS]) for seed in range(100)]
    assert "strike in fewer than 20 of 1,000 sessions: none" in summary(lines)
    for each in lines[:99]:
        each["struck"]["garbage"] = 0
    assert "strike in fewer than 20 of 1,000 sessions: garbage 1" in summary(lines)


@pytest.mark.parametrize(("sessions", "struck_in", "status"), [(39, 0, 0), (40, 0, 1), (40, 1, 0)])
def test_a_kind_that_never_struck_fails_a_campaign(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], sessions: int, struck_in: int, status: int
) -> None:
    lines = [{**line(seed, ["kill"]), "struck": {"kill": int(seed < struck_in)}} for seed in range(sessions)]
    head = {"code": code_hash(), "clean": False}
    results = tmp_path / "results.jsonl"
    results.write_text("".join(f"{json.dumps(each)}\n" for each in (head, *lines)))
    assert main(["--sessions", f"{sessions}", "--seed", "0", "--results", str(results)]) == status


def test_of_many_sessions_each_kind_must_strike_in_20_of_1_000() -> None:
    lines = [line(seed, ["kill"]) for seed in range(20)] + [line(seed, []) for seed in range(20, 1_000)]
    assert too_rare(lines) == [kind.name for kind in KINDS if kind.name != "kill"]
    assert "kill" in too_rare([*lines, line(1_000, [])])


def test_a_strike_counts_as_often_as_it_met_something() -> None:
    """The second strike is the venue's first, the fourth its second; the last comes after the session's end.

    Of the venue's a liquidation fails, and stops are cancelled once while there are none and once while there are.
    """
    strikes = (
        *(at(10, "kill"), at(20, "lose_answer", 30, on="POST"), at(40, "disk_full", 5)),
        *(at(50, "ban", 9, for_s=9), at(60, "liquidate"), at(70, "cancel_stops"), at(90, "cut", 5)),
    )
    plan = Plan(
        *(1, {}, drawn_tape(1, 10), 0.0, strikes),
        kinds=("kill", "answer lost", "disk full", "ban", "liquidated", "stops by hand", "cut network"),
    )
    rows = [{"time": 0, "kind": "fault", "do": "lose_answer", "number": 0}] * 3
    rows += [{"time": 60, "kind": "fault", "do": "liquidate", "number": 2}]
    rows += [{"time": 60, "kind": "fault", "do": "liquidate", "failed": "DataError: no position"}]
    rows += [{"time": 60, "kind": "order"}]
    rows += [{"time": time, "kind": "fault", "do": "cancel_stops", "number": 3} for time in (70, 75)]
    rows += [{"time": 75, "kind": "algo"}]
    times = {"opened": 1_000, "quiet": 61_000, "judged": 81_000}
    evidence = Evidence(1, {}, {}, rows, [], [], [], [], [], [], **times, struck={0: 0, 2: 1})
    counted = {"kill": 0, "answer lost": 3, "disk full": 1, "ban": 0, "liquidated": 0, "stops by hand": 1}
    counted |= {"cut network": 0}
    assert strikes_by_kind(plan, evidence) == counted


def test_tables_are_written_of_results_that_are_there(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    results = tmp_path / "results.jsonl"
    lines = [{"code": "of another day", "clean": False}, line(5, ["kill"]), line(6, ["ban"])]
    results.write_text("".join(f"{json.dumps(each)}\n" for each in lines))
    assert main(["--tell", str(results)]) == 0
    assert capsys.readouterr().out.startswith("2 sessions, 0 with violations")


def test_a_simulator_that_breaks_is_no_clean_session(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(plan: Any, is_replayed: bool = True) -> Any:
        raise RuntimeError("the tape ran out")

    monkeypatch.setattr(campaign_module, "play", broken)
    told = session(4)
    assert "the tape ran out" in told["broken"]
    assert "broke in 1: seed 4" in summary([told])


def test_a_session_without_faults_is_held_against_the_backtest(monkeypatch: pytest.MonkeyPatch) -> None:
    once = cache(lambda latency_s: play(clean_plan(2, latency_s=latency_s)))
    monkeypatch.setattr(campaign_module, "play", lambda plan, is_replayed=True: once(plan.latency_s))
    line = session(2, clean=True)
    assert line["differences"] == []
    assert line["compared"] >= 5
    other = backtested.Comparison(["session 1 | backtest 2"], 9, None)
    monkeypatch.setattr(backtested, "compared", lambda plan, evidence: other)
    told = session(2, clean=True)
    assert "1 differ from the backtest: seed 2: session 1 | backtest 2" in summary([told])


def test_what_was_held_against_the_backtest_is_told() -> None:
    """Two sessions were cut, one of which compares nothing; of nine that is let pass, of three it isn't."""
    lines = [{**line(seed, []), "compared": 7, "cut_s": None} for seed in range(9)]
    lines[1] |= {"cut_s": 61.5}
    lines[2] |= {"cut_s": 3.0, "compared": 0}
    told = summary(lines)
    assert "held against the backtest: 56 decisions of 9 sessions, at least 0 of one" in told
    assert "both sides: 1 at 62 s, 2 at 3 s" in told
    assert "fewer than 5 decisions" not in told
    assert "1 of 3 sessions compare fewer than 5 decisions: 2" in summary(lines[:3])
    assert "held against" not in summary([line(1, [])])


def test_the_summary_tells_entries_that_were_due_and_what_faults_cost() -> None:
    """Of five sessions one has no faults: its entries are due, and not counted against those of the others."""
    lines = [line(seed, ["kill"]) for seed in range(5)]
    lines[4]["measures"] = {**MEASURES, "strikes": 0, "entries_clean": 0}
    lines[3]["measures"] = {**MEASURES, "entries_sent": 9, "entries": 8}
    assert "can be recovered from: 49 of 50 sent; in all, 38 under such faults and 40 in the same" in summary(lines)


def test_rates_are_judged_over_all() -> None:
    lines = [line(seed, ["kill"]) for seed in range(20)]
    lines[3]["measures"] = {**MEASURES, "seed": 3, "halted": True}
    told = summary(lines)
    assert "over all: O13 halted: 1 of 20 sessions" in told
    assert "of 20 sessions with faults that can be recovered from: 0 after entries" in told
    assert "by the venue's log; 1 (3) by anything else" in told


def test_halts_after_entries_that_faults_kept_back_are_told_apart() -> None:
    lines = [line(seed, ["kill"]) for seed in range(20)]
    lines[3]["measures"] = {**MEASURES, "seed": 3, "halted": True, "held_back": True}
    told = summary(lines)
    assert "over all:" not in told
    assert "1 (3) after entries in a row that those faults kept back" in told
    assert "0 by anything else" in told
