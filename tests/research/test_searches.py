"""Trials on one tape add up over searches; those on other tapes and other times don't."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from voltrade.config import Config
from voltrade.data.tape import Tape, TapeReport
from voltrade.model import DAY_MS, Floats, Funding, Marks, Trades
from voltrade.report.bootstrap import NOTHING_TRIED, Luckiest, luck_of, on_a_part
from voltrade.report.judgement import Judgement, judge
from voltrade.report.performance import Returns
from voltrade.research import searches
from voltrade.research.searches import (
    CountingLater,
    Search,
    Searches,
    SearchesWarning,
    TradedTime,
    forget,
    keep,
    settings_hash,
)

JUNE = TradedTime("BTCUSDT", 0, 30 * DAY_MS)
MANY = [str(number) for number in range(9)]


def luck(trials: int = 3, seed: int = 1) -> Luckiest:
    values: Floats = np.random.default_rng(seed).standard_normal((60, trials))
    return luck_of(values).luckiest


def files(home: Path) -> list[Path]:
    return sorted((home / "searches").rglob("*.json"))


def test_trials_of_searches_on_the_same_time_add_up(state_home: Path) -> None:
    first = keep("settings", JUNE, ["ema_fast"], ["a", "b", "c"], 1.0, luck())
    assert (first.trials, first.others) == (3, [])
    second = keep("settings", JUNE, ["ema_slow"], ["c", "d"], 2.0, luck(2, 7))
    assert second.trials == 4, "c is the same setting"
    (other,) = second.others
    assert other.luckiest.maxima == pytest.approx(luck().maxima, abs=1e-4)
    assert other.luckiest.independent == luck().independent
    assert second.frame["varied"].to_list() == ["ema_fast", "ema_slow"]
    assert second.frame["settings"].to_list() == [3, 2]
    assert second.frame["best sharpe"].to_list() == [1, 2]
    assert "4 different settings count that were tried on BTCUSDT" in second._repr_html_()
    assert len(files(state_home)) == 2


def test_a_search_that_is_made_again_replaces_itself(state_home: Path) -> None:
    keep("settings", JUNE, ["ema_fast"], ["a", "b"], 1.0, luck())
    again = keep("settings", JUNE, ["ema_fast"], ["b", "a"], 1.0, luck())
    assert (again.trials, again.others) == (2, [])
    assert len(files(state_home)) == 1


def test_the_same_search_over_other_data_adds_and_never_lowers_what_is_known(state_home: Path) -> None:
    """Over a flat copy of the tape, or with another rule's figures, nothing would be lucky any more."""
    keep("settings", JUNE, ["ema_fast"], MANY, 1.0, luck())
    flat = keep("settings", JUNE._replace(content="flat"), ["ema_fast"], MANY, math.nan, NOTHING_TRIED)
    assert (flat.trials, len(flat.others), len(files(state_home))) == (9, 1, 2)
    keep("settings", JUNE, ["ema_fast"], MANY, math.nan, NOTHING_TRIED)
    found = keep("settings", JUNE, ["ema_fast"], ["own"], 1.0, luck(1, 7))
    known = max(found.others, key=lambda search: search.luckiest.independent).luckiest
    assert known.maxima == pytest.approx(luck().maxima, abs=1e-4)
    assert known.independent == luck().independent
    more = keep("settings", JUNE, ["ema_fast"], MANY, 2.0, luck(5, 9)).own.luckiest
    assert more.maxima == pytest.approx(np.maximum(known.maxima, luck(5, 9).maxima), abs=1e-4)


@pytest.mark.parametrize(
    ("entries", "share"), [((), 1 / 12), ((1, 20), 1.0), ((1, 20, 200, 300), 0.5), ((100, 300), 1 / 12)]
)
def test_a_rule_that_enters_in_a_part_of_its_time_is_judged_by_what_was_tried_there(
    entries: tuple[int, ...], share: float
) -> None:
    keep("settings", JUNE, ["ema_fast"], MANY, 1.0, luck())
    year, times = JUNE._replace(ended=360 * DAY_MS), [day * DAY_MS for day in entries]
    found = keep("settings", year, ["ema_fast"], ["own"], 1.0, luck(1, 7), entries=times)
    for counted in (found, found.with_later()):
        (shown,) = counted.luckiest
        assert shown.maxima.tolist() == on_a_part(found.others[0].luckiest, found.own.luckiest, share).maxima.tolist()


@pytest.mark.parametrize(
    ("market", "days", "tried", "share"),
    [
        ("BTCUSDT", (0, 30), MANY, 1.0),
        ("BTCUSDT", (-365, 365), MANY, 1.0),
        ("BTCUSDT", (0, 15), MANY, 0.5),
        ("BTCUSDT", (24, 60), MANY, 0.2),
        ("BTCUSDT", (30, 60), MANY, 0.0),  # it has chosen what is tried here, on another time
        ("BTCUSDT", (30, 60), MANY[:3], 0.0),
        ("BTCUSDT", (30, 60), MANY[:2], 1.0),  # about as many were tried there: the best of both times is shown
        ("BTCUSDT", (24, 60), MANY[:1], 1.0),
        ("ETHUSDT", (0, 30), MANY, 0.0),
    ],
)
def test_a_search_counts_by_the_time_that_it_shares_or_as_another_try(
    market: str, days: tuple[int, int], tried: list[str], share: float
) -> None:
    keep("settings", TradedTime(market, days[0] * DAY_MS, days[1] * DAY_MS), ["ema_fast"], tried, 1.0, luck())
    found = keep("settings", JUNE, ["ema_fast"], ["own"], 1.0, luck(1, 7))
    assert found.trials == (1 + len(tried) if share else 1)
    expected = [on_a_part(each.luckiest, found.own.luckiest, share) for each in found.others]
    assert [each.maxima.tolist() for each in found.luckiest] == [each.maxima.tolist() for each in expected]


def test_the_same_settings_on_parts_of_a_time_add_up_to_a_search_of_it() -> None:
    for began, ended in ((0, 10), (10, 18), (15, 20)):
        keep("settings", JUNE._replace(began=began * DAY_MS, ended=ended * DAY_MS), ["ema_fast"], MANY, 1.0, luck())
    apart = [f"other {name}" for name in MANY]
    keep("settings", JUNE._replace(began=20 * DAY_MS, ended=30 * DAY_MS), ["ema_slow"], apart, 1.0, luck())
    found = keep("settings", JUNE, ["ema_fast"], ["own"], 1.0, luck(1, 7))
    counted = sorted(found.luckiest, key=lambda each: each.independent)
    shares = [1 / 3, 2 / 3, 2 / 3, 2 / 3]
    part = found.others[0].luckiest.independent
    assert [each.independent for each in counted] == pytest.approx([part**share for share in shares])


def test_a_search_is_judged_with_those_that_were_made_after_it() -> None:
    first = keep("settings", JUNE, ["ema_fast"], ["a", "b"], 1.0, luck())
    keep("settings", JUNE._replace(began=30 * DAY_MS, ended=60 * DAY_MS), ["ema_fast"], ["a", "b"], 1.0, luck())
    assert (len(first.others), len(first.with_later().others)) == (0, 1)
    later = first.with_later()
    later.forget()
    assert len(later.with_later().others) == 1, "a result keeps what it has counted"


def test_a_judgement_is_made_anew_where_another_search_was_made_or_made_again() -> None:
    """The same settings over the same time, once the tape's holes were filled, have other figures."""
    counting = CountingLater(keep("settings", JUNE, ["ema_fast"], ["a"], 1.0, luck()), judged)
    first = counting.judgement
    assert (first.trials, counting.judgement is first) == (1, True)
    keep("settings", JUNE, ["ema_slow"], ["x", "y"], 1.0, luck(2, 7))
    second = counting.judgement
    assert (second.trials, counting.judgement is second) == (3, True)
    keep("settings", JUNE, ["ema_slow"], ["x", "y"], 1.0, luck(2, 8))
    third = counting.judgement
    assert (third.trials, third.luckiest != second.luckiest) == (3, True)
    assert counting.searches.trials == 3


def judged(searches: Searches) -> Judgement:
    values = np.random.default_rng(3).standard_normal(60) + 0.2
    returns = Returns(values / 100, DAY_MS, 10_000.0)
    return judge([returns], 50, others=searches.luckiest, in_all=searches.trials)


@pytest.mark.parametrize(
    ("grid", "trials"),
    [
        (["b"], 2),  # the best of a search, walked forward alone: the other one was tried besides
        (["b", "c"], 2),
        (["a", "b"], 1),  # each training chooses from all that was tried
        (["a", "b", "c"], 1),
        (["x"], 3),
    ],
)
def test_a_search_counts_for_a_walk_forward_that_does_not_choose_from_it_again(grid: list[str], trials: int) -> None:
    keep("settings", JUNE, ["ema_fast"], ["a", "b"], 1.0, luck())
    found = keep("walk-forward", JUNE, ["ema_fast"], ["w"], 1.0, luck(1), chosen_from=grid)
    assert found.trials == trials


def test_walk_forwards_count_for_what_is_tried_later() -> None:
    keep("walk-forward", JUNE, ["ema_fast"], ["w"], 1.0, luck(1), chosen_from=["a"])
    assert keep("walk-forward", JUNE, ["ema_slow"], ["x"], 1.0, luck(1), chosen_from=["b"]).trials == 2
    assert keep("settings", JUNE, ["ema_fast"], ["a"], 1.0, luck()).trials == 3


def test_forgotten_searches_count_no_more(state_home: Path) -> None:
    keep("settings", JUNE, ["ema_fast"], ["a"], 1.0, luck())
    second = keep("settings", JUNE, ["ema_fast"], ["b"], 1.0, luck())
    keep("settings", JUNE._replace(market="ETHUSDT"), ["ema_fast"], ["a"], 1.0, luck())
    assert second.forget() == 2
    assert second.trials == 2, "a result keeps what it has counted"
    assert keep("settings", JUNE, ["ema_fast"], ["c"], 1.0, luck()).trials == 1
    assert len(files(state_home)) == 2
    assert forget("XRPUSDT") == 0


@pytest.mark.parametrize(
    "content", [b"", b"{}", b"[1]", b'{"version": 99}', b'{"version": 1, "luckiest": {"maxima": []}}']
)
def test_a_file_that_can_not_be_read_is_named(state_home: Path, content: bytes) -> None:
    keep("settings", JUNE, ["ema_fast"], ["a"], 1.0, luck())
    (path,) = files(state_home)
    path.write_bytes(content)
    with pytest.warns(SearchesWarning, match=f"{path}: its trials don't count, since"):
        found = keep("settings", JUNE, ["ema_fast"], ["b"], 1.0, luck())
    assert found.trials == 1


def test_a_ledger_that_can_not_be_written_does_not_end_a_search(state_home: Path) -> None:
    state_home.mkdir(parents=True)
    (state_home / "searches").write_text("")
    with pytest.warns(SearchesWarning, match="trials of this search will not add up with others"):
        found = keep("settings", JUNE, ["ema_fast"], ["a"], 1.0, luck())
    assert (found.trials, found.others) == (1, [])


def test_a_relative_state_folder_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VOLTRADE_STATE", "here")
    with pytest.warns(SearchesWarning, match="VOLTRADE_STATE: must be an absolute path, was here"):
        found = keep("settings", JUNE, ["ema_fast"], ["a"], 1.0, luck())
    assert found.with_later() is found


def test_what_nothing_was_tried_in_is_written_too() -> None:
    keep("settings", JUNE, ["ema_fast"], ["a"], float("nan"), NOTHING_TRIED)
    (other,) = keep("settings", JUNE, ["ema_fast"], ["b"], 1.0, luck()).others
    assert other.luckiest.independent == 0
    assert np.isneginf(other.luckiest.maxima).all()


def test_settings_are_the_same_whatever_the_session() -> None:
    config = Config.from_parameters(ema_fast=5)
    assert settings_hash(config) == settings_hash(config.changed(hours=99.0, seed=3))
    assert settings_hash(config) != settings_hash(config.changed(ema_fast=6))
    assert settings_hash(config) != settings_hash(config.changed(duration_s=600.0))


def test_a_synthetic_tape_is_a_market_of_its_own() -> None:
    ids = np.arange(2, dtype=np.int64)
    trades = Trades("BTCUSDT", id=ids, price=ids + 9, quantity=ids + 1, time=ids, buyer_is_maker=ids > 0)
    made, other, recorded = (
        TradedTime.of(Tape(trades, TapeReport(2, 2, 0, 1), source, synthetic), 0, 1).market
        for source, synthetic in (("seed 1", True), ("seed 2", True), ("june.csv", False))
    )
    assert recorded == "BTCUSDT"
    assert len({made, other, recorded}) == 3


def tape_of(**changes: object) -> Tape:
    """Return ten trades, two mark prices and a funding rate."""
    ids = np.arange(10, dtype=np.int64)
    columns: dict[str, Any] = {"id": ids, "price": ids + 90, "quantity": ids + 1, "time": ids * 10}
    trades = Trades("BTCUSDT", **{**columns, "buyer_is_maker": ids > 4, **changes})  # type: ignore[arg-type]
    marks, funding = Marks(ids[:2] * 50, ids[:2] + 7), Funding(ids[1:2] * 40, ids[1:2])
    return Tape(trades, TapeReport(10, 10, 0, 90), "june.csv", marks=marks, funding=funding)


def test_a_walk_forward_is_judged_by_what_others_tried_besides_its_grid() -> None:
    grid = [str(number) for number in range(20)]
    keep("settings", JUNE, ["ema_fast"], [*grid[1:], "other"], 1.0, luck(20))
    found = keep("walk-forward", JUNE, ["ema_fast"], ["w"], 1.0, luck(1), chosen_from=grid)
    (other,) = found.luckiest
    assert (found.trials, other.independent) == (2, pytest.approx(1.0))
    assert other.median == pytest.approx(luck(20).maxima.min(), abs=0.01), "one is seldom the luckiest of twenty"
    assert other.median < luck(20).median / 2
    few = keep("walk-forward", JUNE, ["ema_fast"], ["v"], 1.0, luck(1), chosen_from=grid[1:4])
    assert few.trials == 1 + 17 + 1, "itself, the others of the search, the first walk-forward"
    assert max(each.median for each in few.luckiest) > luck(20).median - 0.2


def test_the_time_of_a_tape_is_that_of_its_data() -> None:
    ids, whole = np.arange(10, dtype=np.int64), TradedTime.of(tape_of(), 0, 90)
    assert TradedTime.of(tape_of(), 0, 90) == whole
    swapped = ids + 90
    swapped[[3, 4]] = swapped[[4, 3]]
    changed = [
        tape_of(price=swapped),
        tape_of(price=np.full(10, 95)),
        tape_of(buyer_is_maker=ids > 5),
        replace(tape_of(), marks=None),
        replace(tape_of(), funding=Funding(ids[1:2] * 40, ids[2:3])),
    ]
    assert len({whole, *(TradedTime.of(tape, 0, 90) for tape in changed)}) == 6
    assert TradedTime.of(tape_of(price=swapped), 50, 90) == TradedTime.of(tape_of(), 50, 90), "it was before"


def test_the_rows_of_a_tape_are_summed_once_for_each_time(monkeypatch: pytest.MonkeyPatch) -> None:
    tape, summed = tape_of(), []
    kept = Tape._fingerprint
    monkeypatch.setattr(Tape, "_fingerprint", lambda tape, *times: summed.append(times) or kept(tape, *times))
    found = [TradedTime.of(tape, *times).content for times in ((0, 90), (50, 90), (0, 90))]
    assert summed == [(0, 90), (50, 90)]
    assert found[0] == found[2] == tape_of().fingerprint(0, 90) != found[1]


def test_a_search_is_read_as_it_was_written(tmp_path: Path) -> None:
    search = Search("settings", JUNE, "ema_fast", ("a", "b"), 1.5, luck(), "2026-01-05T12:00:00+00:00", 0.02)
    (tmp_path / "one.json").write_bytes(search.written())
    read = Search.read(tmp_path / "one.json")
    assert (read.kind, read.traded, read.what, read.settings) == ("settings", JUNE, "ema_fast", ("a", "b"))
    assert (read.sharpe, read.made, read.name, read.missing) == (1.5, search.made, search.name, 0.02)
    assert len(search.written()) < 20_000, "a small ledger"
    assert len(read.luckiest.maxima) == searches.RESAMPLES
