"""The ground-truth log: an exchange made from it again is the same exchange, wherever the log was cut."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.exchanges import (
    BUY,
    SELL,
    SYMBOL,
    T0,
    World,
    a_world,
    go_on,
    history,
    limit,
    marked,
    market,
    played,
    quoted,
    state_of,
    stop,
    trailing,
)

from voltrade.errors import DataError
from voltrade.model import WorkingType
from voltrade.simulated.ground_truth import TruthLog, restored

worlds = st.integers(0, 2**32 - 1).map(a_world)


@settings(max_examples=60, deadline=None)
@given(worlds, st.floats(0, 1, exclude_max=True))
def test_an_exchange_cut_off_anywhere_comes_back_and_goes_on(world: World, where: float) -> None:
    whole = history(world)
    lines = [json.dumps(row) for row in whole.log]
    kept = [json.loads(line) for line in lines[: 1 + int(where * len(lines))]]
    more: list[dict[str, Any]] = []
    exchange = restored(kept, more.append, world.tapes)
    assert kept + more == whole.log[: len(kept) + len(more)], "first what had followed and was not written"
    go_on(exchange, world, kept)
    assert kept + more == whole.log
    assert state_of(exchange) == state_of(whole.exchange)


def test_a_log_on_disk_is_cut_back_to_its_last_whole_row_and_written_on(tmp_path: Path) -> None:
    first = TruthLog(tmp_path)
    exchange = quoted(log=first.write)
    exchange.place_order(limit(BUY, 5, 990))
    first.close()
    with first.path.open("ab") as file:
        file.write(b'{"time": 17000')  # the machine went down in the middle of a row
    second = TruthLog(tmp_path)
    again = restored(second.rows, second.write)
    assert state_of(again) == state_of(exchange)
    again.cancel_all(SYMBOL)
    second.close()
    third = TruthLog(tmp_path)
    assert third.rows[: len(second.rows)] == second.rows
    assert [row["kind"] for row in third.rows[len(second.rows) :]] == ["accepted", "order"]
    assert restored(third.rows).open_orders() == []
    third.close()


def test_a_log_that_says_something_else_is_refused() -> None:
    log: list[dict[str, Any]] = []
    exchange = quoted(log=log.append, latency_ms=0)
    exchange.place_order(market(BUY, 5))
    number = next(number for number, row in enumerate(log) if row["kind"] == "fill")
    assert restored(log).position(SYMBOL).quantity == 5
    with pytest.raises(DataError, match=r"log: must say .*2\.5075.*, says .*0\.2400"):
        restored([*log[:number], {**log[number], "fee": "0.24000000"}, *log[number + 1 :]])
    with pytest.raises(DataError, match="must begin with the start"):
        restored(log[1:])
    with pytest.raises(DataError, match="follows from nothing before it"):
        restored([log[0], log[number]])


def test_rows_of_others_are_passed_over() -> None:
    log: list[dict[str, Any]] = []
    exchange = quoted(log=log.append)
    exchange.place_order(limit(BUY, 5, 990))
    others = [{"kind": "request", "time": 1, "path": "/fapi/v1/order"}, {"kind": "fault", "time": 2}]
    assert state_of(restored([*log[:2], *others, *log[2:]])) == state_of(exchange)


def test_a_week_of_prices_that_nobody_waits_for_leaves_no_rows() -> None:
    """As a paper session is fed by live streams: trades, and a mark every second, beside a resting order and a stop."""
    log: list[dict[str, Any]] = []
    exchange = quoted(latency_ms=0, log=log.append)
    exchange.place_order(market(BUY, 5))
    exchange.place_order(limit(BUY, 5, 900))
    exchange.place_algo(stop(SELL, 5, 950, working_type=WorkingType.MARK_PRICE))
    exchange.place_algo(trailing(SELL, 5, 900))
    before = len(log)
    for second in range(1, 2_000):
        played(exchange, (1_000 * second, 1_000 + second % 40, "bs"[second % 2], 3))
        marked(exchange, 1_000 * second, 1_000 + second % 40, funding_rate_e8=100, next_funding_time=T0 + 10**9)
    assert len(log) - before < 100, "the trailing stop's best prices, and nothing else"
    exchange.events.note_markets()
    assert state_of(restored(log)) == state_of(exchange), "with the prices noted, nothing is lost"
