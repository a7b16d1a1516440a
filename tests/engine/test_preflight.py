"""The start-up table says what a session may still lose."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from support.builders import an_instrument
from test_summary import MINUTE, NOON, left_behind

from voltrade.config import Config
from voltrade.engine import doctor
from voltrade.engine.checks import Check
from voltrade.engine.preflight import _compiled, limits, preflight, used_limits
from voltrade.model import DAY_MS, MONEY, PositionReport, Snapshot


def test_what_the_last_run_used_of_the_limits_stands_in_the_start_up_table() -> None:
    left = json.loads(left_behind(9_830, day_equity=10_000, losses=4, trades=9).state)
    found = used_limits(Config(), left, NOON, "USDT").found
    assert found == (
        "DAILY_LOSS 170.00 of 300.00 USDT; DRAWDOWN 170.00 of 1,000.00 USDT; "
        "LOSING_STREAK 4 of 5 round trips; TRADES_PER_DAY 9 of 50 round trips"
    )


def test_a_new_day_begins_its_own_limits_and_what_holds_is_named() -> None:
    left = json.loads(left_behind(9_600, day_equity=10_000, losses=5, trades=9).state)
    assert used_limits(Config(), left, NOON + MINUTE, "USDT").found.startswith(
        "holds: DAILY_LOSS, LOSING_STREAK; DAILY_LOSS"
    )
    tomorrow = used_limits(Config(), left, NOON + DAY_MS, "USDT").found
    assert "DAILY_LOSS" not in tomorrow
    assert "LOSING_STREAK 5 of 5" in tomorrow


def test_a_fresh_account_has_used_none() -> None:
    left = json.loads(left_behind(10_000, day_equity=10_000, losses=0, trades=0).state)
    assert used_limits(Config(), left, NOON, "USDT").found == "none"


def table_of_a_run_that_goes_on(*readings: tuple[int, int], corrected_ms: int = 0) -> dict[str, Check]:
    """Make the table with a wiring whose gateway can do nothing at all, and such readings of its clock."""
    left = list(readings or [(0, 0)])

    async def reading() -> tuple[int, int]:
        return left.pop(0)

    wiring: Any = SimpleNamespace(
        config=Config().changed(apply_account_settings=True),
        endpoint=SimpleNamespace(rest="https://fapi.binance.com"),
        exchange=SimpleNamespace(proxy_to=lambda address: None),
        rest=SimpleNamespace(clock_reading=reading),
        clock=SimpleNamespace(corrected_ms=corrected_ms),
        **dict.fromkeys(("instrument", "filters"), an_instrument("BTCUSDT")),
        **{
            "fingerprint": "abc",
            "key_from": "",
            "allowed_by": "a person",
            "denied": "",
            "ceilings": "",
            "gateway": None,
        },
    )
    flat = PositionReport("BTCUSDT", 0, "0")
    read = Snapshot(NOON, "BTCUSDT", 10_000 * MONEY, 10_000 * MONEY, 50_000, 20_000, 20, "cross", False, flat)
    return {row.item: row for row in asyncio.run(preflight(wiring, is_new=False, snapshot=read))}


def test_the_table_of_a_run_that_goes_on_reads_no_account_again_and_sets_nothing() -> None:
    """It trades already."""
    checks = table_of_a_run_that_goes_on()
    assert (checks["leverage"].found, checks["leverage"].ok) == ("20", False)
    assert (checks["wallet"].found, checks["clock"].ok) == ("10,000.00", True)


@pytest.mark.parametrize(
    ("resume", "until"),
    [("next_utc_day", "until 00:00 UTC"), ("person", "until `ctl resume`"), ("after_seconds", "for 900 s")],
)
def test_a_limit_says_until_when_it_holds_as_a_person_would(resume: str, until: str) -> None:
    """It said `until person` and `until next_utc_day`."""
    names = ("daily_loss", "drawdown", "consecutive_losses", "trades_per_day")
    config = Config().changed(resume_after_s=900.0, **{f"{name}_resume": resume for name in names})
    rows = {row.item: row.found for row in limits(config)}
    for item in ("daily loss", "drawdown", "losing streak", "trades a day"):
        assert rows[item].endswith(f", {until}"), rows[item]


@pytest.mark.parametrize(
    ("ahead_ms", "corrected_ms", "found", "ok"),
    [
        (1_000, 0, "1,000 ms ahead of the exchange's", True),
        (1_001, 0, "1,001 ms ahead of the exchange's", False),
        (-1_000, 0, "1,000 ms behind the exchange's", True),
        (-1_001, 0, "1,001 ms behind the exchange's", False),
        (7, -120_022, "120,015 ms behind the exchange's", False),  # the exchange's time counts, the machine's is wrong
        (0, 3_600_000, "3,600,000 ms ahead of the exchange's", False),
    ],
)
def test_a_machine_whose_clock_is_a_second_off_starts_nothing_however_far_it_is(
    ahead_ms: int, corrected_ms: int, found: str, ok: bool
) -> None:
    row = table_of_a_run_that_goes_on((ahead_ms, 40 if abs(ahead_ms) < 9 else 0), corrected_ms=corrected_ms)["clock"]
    assert (row.found, row.ok) == (found, ok)
    assert row.wanted.endswith("set the time of this machine by NTP")


UNMEASURED = "can't be measured: the fastest of 5 answers took 2,400 ms"


@pytest.mark.parametrize(
    ("readings", "found", "ok"),
    [
        ([(1_200, 2_400), (5, 40)], "5 ms ahead of the exchange's", True),  # one late answer says nothing
        ([(1_200, 2_400), (1_100, 40)], "1,100 ms ahead of the exchange's", False),
        ([(1_200, 2_400), (-1_300, 2_600), *[(1_250, 2_500)] * 3], UNMEASURED, True),
        ([(1_010, 40), (1_005, 30), (1_015, 36), (1_019, 40), (1_010, 38)], "1,005 ms ahead of the exchange's", True),
        ([(-2_201, 2_400)], "2,201 ms behind the exchange's", False),  # by 1,001 at least
    ],
)
def test_a_slow_answer_does_not_make_a_right_clock_wrong(readings: list[tuple[int, int]], found: str, ok: bool) -> None:
    """The difference is exact to half of the time of the answer, and is asked for until it decides, five times."""
    row = table_of_a_run_that_goes_on(*readings)["clock"]
    assert (row.found, row.ok) == (found, ok)


@pytest.mark.parametrize(
    ("mode", "is_cached", "is_right"), [("live", False, False), ("live", True, True), ("sim", False, True)]
)
def test_compiled_rules_that_are_kept_nowhere_start_nothing_that_risks_money(
    mode: str, is_cached: bool, is_right: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A dead engine's successor would run as plain Python, and compile beside that, again and again."""
    (tmp_path / "file").touch()
    monkeypatch.setenv("VOLTRADE_CACHE", str(tmp_path if is_cached else tmp_path / "file"))
    row = _compiled(SimpleNamespace(session=SimpleNamespace(mode=mode)))  # type: ignore[arg-type]
    assert row.ok is is_right
    assert row.found.endswith("can not be written") is not is_cached


@pytest.mark.parametrize(
    ("lacking", "told"), [((), "there"), (("_react",), "not there yet; a new session compiles first")]
)
def test_the_row_says_whether_the_compiled_rules_are_there_yet(
    lacking: tuple[str, ...], told: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(doctor, "find_lacking", lambda settings: frozenset(lacking))
    assert f": {told}" in doctor._compiled_code(Config.from_parameters()).found
