"""Contracts on stocks: nothing is entered while the market that they follow is shut, or its hours are unknown."""

from __future__ import annotations

import asyncio
from copy import deepcopy
from typing import Any

import pytest
from support.fake_binance import EXCHANGE_INFO, FakeBinance, Say, error

from voltrade.errors import DataError, ExchangeError
from voltrade.exchange.binance import BinanceRestClient, Endpoint, connect
from voltrade.exchange.trading_hours import TradingHours, schedule_of

MINUTE, HOUR = 60_000, 3_600_000
OPEN, SHUT, AGAIN = 100 * HOUR, 120 * HOUR, 150 * HOUR
"""Open, shut and open again from these times on, to 200 h."""
SCHEDULE = {
    "updateTime": OPEN,
    "marketSchedules": {
        "COMMODITY": {
            "sessions": [
                {"startTime": OPEN, "endTime": SHUT, "type": "REGULAR"},
                {"startTime": SHUT, "endTime": AGAIN, "type": "NO_TRADING"},
                {"startTime": AGAIN, "endTime": 200 * HOUR, "type": "REGULAR"},
            ]
        },
        "EQUITY": {"sessions": [{"startTime": OPEN, "endTime": AGAIN, "type": "OVERNIGHT"}]},
    },
}


def a_row(**changed: str) -> dict[str, Any]:
    """Return the row of a contract on gold, as of 2025-12, under the name of the tests' symbol."""
    row = deepcopy(EXCHANGE_INFO["symbols"][0])  # type: ignore[index]
    return {**row, "contractType": "TRADIFI_PERPETUAL", "underlyingType": "COMMODITY", **changed}


def statuses(times: list[int], schedule: Any = SCHEDULE, **changed: str) -> tuple[list[tuple[str, int]], int]:
    """Return status and its end at each time, and how often the schedule was read; None for one that can't be."""
    now, asked = [0], []

    async def read(call: str) -> Any:
        asked.append(call)
        told = schedule(now[0]) if callable(schedule) else schedule
        if told is None:
            raise ExchangeError("out of reach")
        return told

    async def story() -> list[tuple[str, int]]:
        hours, found = TradingHours(read, lambda: now[0]), []
        for now[0] in times:
            info = {"symbols": [a_row(**changed)]}
            await hours.apply(info, "BTCUSDT")
            found.append((info["symbols"][0]["status"], info["symbols"][0].get("statusUntil", 0)))
        return found

    return asyncio.run(story()), len(asked)


@pytest.mark.parametrize(
    ("time", "status", "until"),
    [
        (OPEN, "TRADING", 0),
        (SHUT - 1, "TRADING", 0),
        (SHUT, "NO_TRADING", AGAIN),
        (AGAIN - 1, "NO_TRADING", AGAIN),
        (AGAIN, "TRADING", 0),
        (OPEN - 1, "HOURS_UNKNOWN", 0),
        (200 * HOUR, "HOURS_UNKNOWN", 0),
    ],
)
def test_the_status_by_the_time(time: int, status: str, until: int) -> None:
    assert statuses([time])[0] == [(status, until)]


@pytest.mark.parametrize(
    ("changed", "status", "asked"),
    [
        ({"underlyingType": "EQUITY"}, "TRADING", 1),
        ({"underlyingType": "FX"}, "HOURS_UNKNOWN", 1),
        ({"underlyingType": ""}, "HOURS_UNKNOWN", 1),
        ({"contractType": "PERPETUAL"}, "TRADING", 0),
        ({"contractType": ""}, "TRADING", 0),
        ({"status": "TRADING_HALT"}, "TRADING_HALT", 0),
    ],
)
def test_only_a_contract_with_hours_that_trades_is_asked_for(changed: dict[str, str], status: str, asked: int) -> None:
    assert statuses([SHUT + 1], **changed) == ([(status, 0)], asked)


def test_the_schedule_is_read_once_an_hour_and_an_earlier_one_counts_while_it_reaches() -> None:
    minutes = [OPEN + each * MINUTE for each in range(180)]
    assert statuses(minutes)[1] == 3
    # It can't be read after the first time: it reaches to 200 h, and then every reading asks again.
    late = [SHUT - 1, SHUT + HOUR, AGAIN, 200 * HOUR, 200 * HOUR + MINUTE]
    told, asked = statuses(late, lambda time: SCHEDULE if time < SHUT else None)
    assert [status for status, _ in told] == ["TRADING", "NO_TRADING", "TRADING", "HOURS_UNKNOWN", "HOURS_UNKNOWN"]
    assert asked == 5


@pytest.mark.parametrize(
    "schedule",
    [None, {}, [], {"marketSchedules": []}, {"marketSchedules": {"COMMODITY": {}}}, {"marketSchedules": {}}],
)
def test_hours_that_can_not_be_read_are_unknown(schedule: Any) -> None:
    assert statuses([OPEN + 1], schedule)[0] == [("HOURS_UNKNOWN", 0)]


def test_a_malformed_time_is_refused_by_its_field() -> None:
    wrong = {"marketSchedules": {"FX": {"sessions": [{"startTime": "1", "endTime": 2, "type": "REGULAR"}]}}}
    with pytest.raises(DataError, match=r"FX\.sessions\[0\]\.startTime must be a whole number"):
        schedule_of(wrong)


def test_a_session_reads_them_with_the_filters() -> None:
    """What `live` asks once a minute says when the market shuts, and when it opens again."""

    async def story() -> list[str]:
        now = [SHUT - MINUTE]
        async with FakeBinance() as fake:
            fake.always["GET", "/fapi/v1/exchangeInfo"] = Say(body={"serverTime": 1_000, "symbols": [a_row()]})
            fake.will("GET", "/fapi/v1/tradingSchedule", Say(body=SCHEDULE))
            fake.always["GET", "/fapi/v1/tradingSchedule"] = error(-1000, "no", 500)
            exchange = connect(Endpoint.simulated(fake.rest, fake.stream), None, lambda: now[0], 5_000)
            rest, found = BinanceRestClient(exchange), []
            for now[0] in (SHUT - MINUTE, SHUT, AGAIN):
                found.append((await rest.filters("BTCUSDT")).status)
            await exchange.close()
            return found

    assert asyncio.run(story()) == ["TRADING", "NO_TRADING", "TRADING"]
