"""What differs between the modes: where trades come from, where orders go, which clock counts, and which account.

| mode | trades | orders | clock |
|---|---|---|---|
| sim | the simulated venue | the simulated venue | the tape's in lockstep, else the wall clock |
| paper | Binance | the simulated exchange, in process | the wall clock |
| demo, live | Binance's demo, Binance | the same | the wall clock |

What else depends on the mode: who may trade (`permission`), whether trades are stored (`recorder`), and whether engine
and venue advance in turns (`voltrade.session.lockstep`).
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar

from voltrade.config import Config
from voltrade.engine.clocks import TapeClock, WallClock
from voltrade.engine.first_questions import FirstQuestions, endpoint_for
from voltrade.engine.paper import OnAggTrade, OnEvent, PaperExchange
from voltrade.engine.permission import Permission, permit, permit_resumed
from voltrade.engine.venue_process import VenueProcess
from voltrade.errors import ConfigError, ExchangeError, SessionError
from voltrade.exchange.binance import BinanceRestClient, BinanceWSManager, Endpoint, connect, exchange_of
from voltrade.exchange.block_note import BlockNote
from voltrade.exchange.client import UsdmExchange
from voltrade.exchange.credentials import Credentials
from voltrade.exchange.ports import OrderGateway
from voltrade.live import LiveTradingSystem
from voltrade.model import Instrument, Trades
from voltrade.simulated.rehearsal import rehearse

log = logging.getLogger(__name__)

T = TypeVar("T")

RETRY_S = 1.0
"""Pause between two tries to reach the exchange."""
STATUS_WITHIN_S = 5.0
"""Longest wait for a simulated venue to say whether it is in lockstep."""
SELDOM_S = 60.0
"""Longest pause where nothing depends on the answer."""


@dataclass
class Wiring:
    """The exchange, clock and account that one session uses."""

    config: Config
    endpoint: Endpoint
    exchange: UsdmExchange
    rest: BinanceRestClient
    clock: TapeClock | WallClock
    instrument: Instrument
    """Filters of the symbol, in the run's units."""
    gateway: OrderGateway
    account: str = ""
    """Name of the account for its ledger; empty for an account that exists only during the session."""
    fingerprint: str = ""
    """Name of the account that is shown to users."""
    key_from: str = ""
    """Where the API key was read."""
    allowed_by: str = "no money is at stake"
    ceilings: str = ""
    """Ceilings of authorisation files, with the session's values."""
    denied: str = ""
    """Why a resumed session may not trade on; empty if it may."""
    venue: VenueProcess | None = None
    is_own_venue: bool = False
    tape: Mapping[str, Any] = field(default_factory=dict)
    """Status of the simulated venue at the start."""
    filters: Instrument = field(init=False)
    """Filters of the symbol as they were read at the start."""

    def __post_init__(self) -> None:
        self.filters = self.instrument

    def use_units(self, units: Instrument) -> None:
        """Read and write prices and quantities in the units that a run began with; see `symbol_filters`."""
        self.instrument = units
        self.rest.use(units)

    @property
    def channel(self) -> VenueProcess | None:
        """The side channel for lockstep; None in all other sessions."""
        return self.venue if self.tape.get("lockstep") else None

    def config_until_tape_end(self) -> Config:
        """Return the settings; a session by the wall clock also ends at the end of the tape, as in lockstep."""
        session, goes_on = self.config.session, self.config.session.on_duration_end == "carry_on"
        if not self.tape or self.tape["lockstep"] or (session.duration_s and not goes_on):
            return self.config
        ends = {"duration_s": max((self.tape["last_time"] - self.tape["time"]) / 1000, 1.0)}
        ends |= {"on_duration_end": "protect"} if goes_on else {}
        return self.config.model_copy(update={"session": session.model_copy(update=ends)})

    def restore_paper_account(self, folder: Path) -> None:
        """In mode `paper`, use the simulated account in this folder; called once the account's ledger is locked."""
        if isinstance(self.gateway, PaperExchange):
            self.gateway = PaperExchange(self.config, self.instrument, self.clock, folder, self.rest.filters)
            self.instrument = self.gateway.units

    def feed(self, system: LiveTradingSystem, after_trade_id: int) -> BinanceWSManager:
        """Return the streams that bring events to a session; they are not started yet."""
        on_agg_trade: OnAggTrade = system._on_agg_trade
        on_event: OnEvent = system.on_event
        paper = self.gateway if isinstance(self.gateway, PaperExchange) else None
        if paper is not None:
            on_agg_trade, on_event = paper.between(on_agg_trade, on_event)
        return BinanceWSManager(
            self.exchange,
            self.rest,
            self.instrument,
            on_agg_trade,
            on_event,
            self.clock,
            user_stream=paper is None,
            lockstep=self.channel is not None,
            after_trade_id=after_trade_id,
            is_mark_missing=system.core.symbol_states[self.instrument.symbol].monitor.is_mark_missing,
        )

    async def close(self) -> None:
        """Close all connections, and stop a venue that the session has started."""
        if isinstance(self.gateway, PaperExchange):
            self.gateway.close()
        await self.exchange.close()
        if self.venue is not None:
            if self.is_own_venue:
                await self.venue.stop()
            await self.venue.close()


@dataclass(frozen=True, slots=True)
class Known:
    """What a resumed run knows of its exchange, so that it asks for nothing before it looks at its position.

    Attributes:
        instrument: The filters that its journal counts with; None where that can't be read.
        key: In modes `demo` and `live`, fingerprint of the API key that it began with.
        account: Name of the account for its ledger; empty where it has to be asked for.
        began: When it began, ms UTC; 0 where that isn't known.
        word: The trading confirmation that it began with; None where that isn't known.
        first: Questions that are on their way already; None for none.
    """

    instrument: Instrument | None
    key: str = ""
    account: str = ""
    began: int = 0
    word: str | None = None
    first: FirstQuestions | None = None


async def wire(
    config: Config,
    run_dir: Path,
    environment: Mapping[str, str],
    known_venue: str = "",
    known: Known | None = None,
) -> Wiring:
    """Connect to the exchange of a session's mode; only market data is requested, and nothing for a resumed run.

    Args:
        config: Settings of the session.
        run_dir: Folder of the run, where a venue that is started writes its log, and where is noted for how long the
            exchange blocks requests.
        environment: Has the keys of modes `demo` and `live`.
        known_venue: In mode `sim`, the address of the venue that the run had before.
        known: What a resumed run knows; None for a new one.

    Raises:
        ConfigError: Mode `demo` or `live` lacks keys, or `live` lacks a permission; nothing was sent. Or the venue is
            in lockstep, and the mode is not `sim`.
        SessionError: The simulated venue doesn't answer.
        ExchangeError: The exchange can't be read.
    """
    note = BlockNote(run_dir)
    if config.session.mode == "sim":
        return await _wire_sim(config, run_dir, known_venue, known, note)
    if config.session.mode == "paper":
        return await _wire_paper(config, known, note)
    now = datetime.now(UTC)
    if known is not None:
        began = datetime.fromtimestamp(known.began / 1000, UTC) if known.began else None
        permission = permit_resumed(config, known.key, environment, now, run_dir, began, known.word)
        return await _wire_binance(config, permission, known, note)
    return await _wire_binance(config, permit(config, environment, now, run_dir), None, note)


async def reach(config: Config, environment: Mapping[str, str]) -> Wiring:
    """Connect to the exchange of a mode to read only: keys are enough, and `sim` needs a running venue.

    Raises:
        ConfigError: There are no keys.
        SessionError: The simulated venue doesn't answer.
        ExchangeError: The exchange can't be read.
    """
    if config.session.mode == "sim":
        return await _wire_sim(config, Path(), config.session.venue)
    if config.session.mode == "paper":
        return await _wire_paper(config)
    credentials = Credentials.load(environment)
    return await _wire_binance(
        config, Permission(credentials, credentials.fingerprint, "no permission is needed to look")
    )


async def refuse_lockstep(config: Config) -> None:
    """Refuse a simulated venue in lockstep where the wall clock counts: its time is that of its tape.

    A server that doesn't say so isn't voltrade's venue; one that doesn't answer is refused by the first request.

    Raises:
        ConfigError: The venue of these settings is in lockstep.
    """
    session = config.session
    if not session.venue:
        return
    venue = VenueProcess(session.venue)
    try:
        async with asyncio.timeout(STATUS_WITHIN_S):
            status: object = await venue.status()
    except (SessionError, TimeoutError):
        return
    finally:
        await venue.close()
    if isinstance(status, dict) and status.get("lockstep"):
        raise ConfigError(
            f"venue: must be one by the wall clock, started with --speed 1, was in lockstep at {session.venue}"
        )


async def _wire_sim(
    config: Config, run_dir: Path, known_venue: str, known: Known | None = None, note: BlockNote | None = None
) -> Wiring:
    given = config.session.venue
    venue = VenueProcess(given) if given else await VenueProcess.reuse_or_start(run_dir, config, known_venue)
    try:
        tape = await venue.status()
        endpoint = Endpoint.simulated(venue.rest, venue.stream)
        clock = TapeClock(tape["time"]) if tape["lockstep"] else WallClock()
        wiring = await _wire(config, endpoint, Credentials("sim-key", "sim-secret"), clock, known, note)
    except BaseException:
        if not given:
            await venue.stop()
        await venue.close()
        raise
    wiring.venue, wiring.tape, wiring.is_own_venue = venue, tape, not given
    if given:
        wiring.account = f"sim {tape['instance']}"
    wiring.fingerprint = str(tape["instance"])[:12]
    return wiring


async def _wire_paper(config: Config, known: Known | None = None, note: BlockNote | None = None) -> Wiring:
    if known is None:
        await refuse_lockstep(config)
    wiring = await _wire(config, _endpoint(config), None, WallClock(), known, note)
    wiring.account = f"paper {exchange_of(wiring.endpoint)} {config.session.symbol}"
    wiring.fingerprint = "paper"
    wiring.gateway = PaperExchange(config, wiring.instrument, wiring.clock, read_filters=wiring.rest.filters)
    if known is None:  # one that goes on looks at its position first
        rehearse(config, wiring.instrument, Trades.from_rows(config.session.symbol, [(1, 1_000_000, 1, 1, False)]))
    return wiring


async def _wire_binance(
    config: Config, permission: Permission, known: Known | None = None, note: BlockNote | None = None
) -> Wiring:
    if known is None:
        await refuse_lockstep(config)
    wiring = await _wire(config, _endpoint(config), permission.credentials, WallClock(), known, note)
    try:
        wiring.account = known.account if known is not None else ""
        if not wiring.account:
            # The account's own name, since each of its keys has another fingerprint.
            name = await waited_for(wiring.rest.account_name, is_wanted=known is not None)
            wiring.account = f"{exchange_of(wiring.endpoint)} {name}"
    except BaseException:
        await wiring.exchange.close()
        raise
    wiring.fingerprint, wiring.allowed_by = permission.account, permission.by
    wiring.key_from = permission.credentials.source
    wiring.ceilings, wiring.denied = permission.ceilings, permission.denied
    return wiring


def _endpoint(config: Config) -> Endpoint:
    session = config.session
    return endpoint_for(session.mode, session.venue, session.rest_host, session.stream_host)


async def _wire(
    config: Config,
    endpoint: Endpoint,
    credentials: Credentials | None,
    clock: TapeClock | WallClock,
    known: Known | None,
    note: BlockNote | None,
) -> Wiring:
    first, window_ms = known.first if known else None, config.execution.recv_window_ms
    if first is not None and first.take(endpoint, credentials, window_ms):
        clock, exchange, rest = first.clock, first.exchange, first.rest
    else:
        exchange = connect(endpoint, credentials, clock, window_ms)
        if note is not None and isinstance(clock, WallClock):  # a tape's time is not the machine's
            exchange.keep_block(note)
        rest = BinanceRestClient(exchange, endpoint.name)
    try:
        instrument = await first_contact(rest, clock, config.session.symbol, known.instrument if known else None)
    except BaseException:
        await exchange.close()
        raise
    return Wiring(config, endpoint, exchange, rest, clock, instrument, rest)


async def first_contact(
    rest: BinanceRestClient, clock: TapeClock | WallClock, symbol: str, known: Instrument | None = None
) -> Instrument:
    """Sync the clock and read the symbol's filters; those of a resumed run are known, and it asks for nothing yet.

    Raises:
        ExchangeError: The exchange can't be reached, and the run is new.
    """
    if known is not None:
        rest.use(known)
        return known
    if isinstance(clock, WallClock):
        await clock.sync(rest)
    return await rest.instrument(symbol, any_status=True)  # the start-up table says what may be traded


async def waited_for(ask: Callable[[], Awaitable[T]], is_wanted: bool, longest_s: float = RETRY_S) -> T:
    """Return the exchange's answer; if it is wanted, ask until the exchange can be reached.

    The pause between two tries doubles, up to `longest_s`.

    Raises:
        ExchangeError: It can't be reached, and isn't waited for.
    """
    pause_s = RETRY_S
    while True:
        try:
            return await ask()
        except ExchangeError as error:
            if not is_wanted:
                raise
            log.warning("the exchange can't be reached, and is waited for: %s", error)
            await asyncio.sleep(pause_s)
            pause_s = min(2 * pause_s, longest_s)
