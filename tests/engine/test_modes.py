"""What a session goes by before it trades: the clock, and the first words with the exchange."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from support.builders import an_instrument

from voltrade.engine import modes
from voltrade.engine.clocks import MAX_OFFSET_MS, WallClock
from voltrade.engine.modes import first_contact
from voltrade.errors import VenueError
from voltrade.model import Instrument

NOON_MS = 1_767_614_400_000


class Machine:
    """A clock that somebody sets, and time that passes evenly."""

    def __init__(self) -> None:
        self.wall, self.passed = NOON_MS * 1_000_000, 5_000_000_000

    def wait(self, ms: int) -> None:
        self.wall += ms * 1_000_000
        self.passed += ms * 1_000_000

    def clock(self) -> WallClock:
        return WallClock(lambda: self.wall, lambda: self.passed)


class Exchange:
    """Says how far our clock is ahead of its own, and its filters, after so many failures."""

    def __init__(self, ahead_ms: int = 0, failures: int = 0) -> None:
        self.ahead_ms, self.failures = ahead_ms, failures

    async def clock_offset(self) -> int:
        return self.ahead_ms

    async def instrument(self, symbol: str, any_status: bool) -> Instrument:
        self.failures -= 1
        if self.failures >= 0:
            raise VenueError("nobody answers")
        return an_instrument(symbol)


@pytest.mark.parametrize("hours", [-1, 1])
def test_whoever_sets_the_machines_clock_moves_no_timer(hours: int) -> None:
    machine = Machine()
    clock = machine.clock()
    machine.wait(1_500)
    machine.wall += hours * 3_600 * 10**9
    machine.wait(500)
    assert clock() == NOON_MS + 2_000


@pytest.mark.parametrize(
    ("ahead_ms", "counts"), [(MAX_OFFSET_MS, False), (MAX_OFFSET_MS + 1, True), (-3_600_000, True)]
)
def test_a_clock_that_is_wrong_at_the_start_is_not_gone_by(ahead_ms: int, counts: bool) -> None:
    clock = Machine().clock()
    asyncio.run(clock.sync(Exchange(ahead_ms)))  # type: ignore[arg-type]
    assert clock() == NOON_MS - ahead_ms * counts


def test_a_run_that_goes_on_waits_for_an_exchange_that_can_not_be_reached(monkeypatch: Any) -> None:
    monkeypatch.setattr(modes, "RETRY_S", 0.0)
    found = asyncio.run(first_contact(Exchange(failures=3), Machine().clock(), "BTCUSDT", True))  # type: ignore[arg-type]
    assert found.symbol == "BTCUSDT"
    with pytest.raises(VenueError, match="nobody answers"):
        asyncio.run(first_contact(Exchange(failures=1), Machine().clock(), "BTCUSDT", False))  # type: ignore[arg-type]
