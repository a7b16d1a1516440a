"""What a session goes by before it trades: the clock, and the first words with the exchange."""

from __future__ import annotations

import asyncio
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from support.builders import an_instrument

from voltrade.config import Config
from voltrade.engine import modes
from voltrade.engine.clocks import MAX_OFFSET_MS, WallClock
from voltrade.engine.modes import Known, first_contact
from voltrade.engine.permission import Permission
from voltrade.engine.venue_process import VenueProcess
from voltrade.errors import ConfigError, ExchangeError, SessionError
from voltrade.exchange.binance import Endpoint
from voltrade.exchange.block_note import BlockNote
from voltrade.exchange.credentials import Credentials
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
        self.ahead_ms, self.failures, self.asked = ahead_ms, failures, 0

    async def clock_offset(self) -> int:
        return self.ahead_ms

    async def instrument(self, symbol: str, any_status: bool) -> Instrument:
        self._fail()
        return an_instrument(symbol)

    async def account_name(self) -> str:
        self._fail()
        return "sgTest"

    def use(self, instrument: Instrument) -> None:
        self.used = instrument

    def _fail(self) -> None:
        self.asked += 1
        self.failures -= 1
        if self.failures >= 0:
            raise ExchangeError("nobody answers")


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
    assert clock.corrected_ms == ahead_ms * counts


def test_a_run_that_goes_on_knows_its_filters_and_asks_for_none() -> None:
    exchange, known = Exchange(failures=3), an_instrument("BTCUSDT")
    assert asyncio.run(first_contact(exchange, Machine().clock(), "BTCUSDT", known)) is known  # type: ignore[arg-type]
    assert (exchange.used, exchange.asked) == (known, 0)
    with pytest.raises(ExchangeError, match="nobody answers"):
        asyncio.run(first_contact(exchange, Machine().clock(), "BTCUSDT"))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("known", "asked"),
    [
        (Known(an_instrument("BTCUSDT"), "fingerprint", "https://fapi.binance.com sgTest"), 0),
        (Known(an_instrument("BTCUSDT"), "fingerprint"), 3),  # an exchange that can't be reached is waited for
        (None, 1),
    ],
)
def test_an_accounts_name_is_asked_for_where_a_run_that_goes_on_does_not_know_it(
    monkeypatch: pytest.MonkeyPatch, known: Known | None, asked: int
) -> None:
    exchange = Exchange(failures=2 if known else 0)

    async def wired(config: Config, endpoint: Endpoint, *_: Any) -> Any:
        return SimpleNamespace(rest=exchange, endpoint=endpoint, account="", exchange=None)

    monkeypatch.setattr(modes, "_wire", wired)
    monkeypatch.setattr(modes, "RETRY_S", 0.0)
    config = Config.from_parameters(mode="live")
    wiring = asyncio.run(modes._wire_binance(config, Permission(Credentials("k", "s"), "fingerprint", "test"), known))
    assert wiring.account == "https://fapi.binance.com sgTest"
    assert exchange.asked == asked


@pytest.mark.parametrize("known", [Known(an_instrument("BTCUSDT"), "fingerprint"), None])
def test_a_session_is_permitted_by_its_runs_copy_of_the_rule_and_what_the_permission_says_is_passed_on(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, known: Known | None
) -> None:
    permission = Permission(Credentials("k", "s"), "fingerprint", "a file", "leverage 5", "expired")
    judged: list[object] = []

    def permit(*given: object) -> Permission:
        judged.extend(each for each in given if isinstance(each, Path))
        return permission

    async def wired(config: Config, endpoint: Endpoint, *_: Any) -> Any:
        return SimpleNamespace(rest=Exchange(), endpoint=endpoint, account="", exchange=None)

    monkeypatch.setattr(modes, "permit_resumed" if known else "permit", permit)
    monkeypatch.setattr(modes, "_wire", wired)
    wiring = asyncio.run(modes.wire(Config.from_parameters(mode="live"), tmp_path, {}, known=known))
    assert judged == [tmp_path]
    assert (wiring.allowed_by, wiring.ceilings, wiring.denied) == ("a file", "leverage 5", "expired")


@pytest.mark.parametrize("known", [Known(an_instrument("BTCUSDT"), "fingerprint", "an account"), None])
@pytest.mark.parametrize("mode", ["paper", "demo", "live"])
def test_an_engine_begins_with_the_pause_that_one_before_it_in_the_run_was_told(
    mode: str, known: Known | None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """One that looks after an account alone is such an engine; a look from outside, `reach`, is of no run."""
    config = Config.from_parameters(mode=mode, venue="http://127.0.0.1:9", threshold=10)
    permission = Permission(Credentials("k" * 32, "s" * 32), "fingerprint", "test")
    monkeypatch.setattr(modes, "permit_resumed" if known else "permit", lambda *_: permission)
    BlockNote(tmp_path).write(60_000, 0)

    async def reached() -> int:
        if known is None:  # it asks for the filters
            with pytest.raises(ExchangeError, match="not sent: the exchange blocks requests"):
                await modes.wire(config, tmp_path, {})
            return 60_000
        wiring = await modes.wire(config, tmp_path, {}, known=known)
        await wiring.exchange.close()
        return wiring.exchange.blocked_until - wiring.clock()

    assert 0 < asyncio.run(reached()) <= 60_000


@pytest.mark.parametrize("mode", ["paper", "demo", "live"])
def test_a_venue_in_lockstep_is_refused_by_name_where_the_wall_clock_counts(
    mode: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    keys = {"VOLTRADE_API_KEY": "k" * 32, "VOLTRADE_API_SECRET": "s" * 32}
    config = Config.from_parameters(mode=mode, venue="http://127.0.0.1:9", threshold=10)

    async def status(venue: VenueProcess) -> Any:
        if isinstance(answer, Exception):
            raise answer
        return answer

    monkeypatch.setattr(VenueProcess, "status", status)
    answer: Any = {"lockstep": True, "instance": "abc"}
    with pytest.raises(
        ConfigError, match="venue: must be one by the wall clock, started with --speed 1, was in lockst"
    ):
        asyncio.run(modes.reach(config, keys))
    for other in ({"lockstep": False}, {}, [], SessionError("no venue"), TimeoutError()):
        answer = other
        asyncio.run(modes.refuse_lockstep(config))


@pytest.mark.parametrize(
    ("settings", "until"),
    [
        ({}, (10.0, "flatten")),
        ({"on_duration_end": "protect"}, (10.0, "protect")),
        ({"on_duration_end": "carry_on"}, (10.0, "protect")),  # there is nothing to carry on with
        ({"on_duration_end": "carry_on", "duration_s": 4}, (10.0, "protect")),  # the setting's own end is none
        ({"duration_s": 4}, (4.0, "flatten")),
    ],
)
def test_by_the_wall_clock_too_a_session_ends_with_its_tape(settings: dict[str, Any], until: tuple[float, str]) -> None:
    tape = {"lockstep": False, "time": 5_000, "last_time": 15_000}
    given = SimpleNamespace(config=Config.from_parameters(speed=1.0, **settings), tape=tape)
    session = modes.Wiring.config_until_tape_end(given).session  # type: ignore[arg-type]
    assert (session.duration_s, session.on_duration_end) == until
