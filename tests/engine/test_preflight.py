"""The start-up table says what a session may still lose."""

from __future__ import annotations

import json

from test_summary import MINUTE, NOON, left_behind

from voltrade.config import Config
from voltrade.engine.preflight import used_limits
from voltrade.model import DAY_MS


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
