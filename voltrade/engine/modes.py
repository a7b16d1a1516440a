"""What differs between the modes: where trades come from, where orders go, whose clock counts, and whose account it is.

| mode | trades | orders | clock |
|---|---|---|---|
| sim | the simulated venue | the simulated venue | the tape's in lockstep, else the wall's |
| paper | Binance | the simulated exchange, in process | the wall's |
| demo, live | Binance's demo, Binance | the same | the wall's |

Everything behind this is the same for all of them.
"""

from __future__ import annotations

import asyncio
import json
import logging
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import aiohttp

from voltrade.config import Config
from voltrade.engine.paper import OnAggTrade, OnEvent, PaperExchange
from voltrade.engine.permission import Permission, permit, permit_again
from voltrade.errors import SessionError, VenueError
from voltrade.exchange.binance import DEMO, LIVE, BinanceRestClient, BinanceWSManager, Endpoint, connect
from voltrade.exchange.client import UsdmExchange
from voltrade.exchange.credentials import Credentials
from voltrade.exchange.ports import OrderGateway
from voltrade.live import LiveTradingSystem
from voltrade.model import Instrument

log = logging.getLogger(__name__)

WRONG_MS = 10_000
"""A machine's clock that is this far from the exchange's is not gone by; less only moves how requests are signed."""
REACH_AGAIN_S = 1.0
"""Pause before an exchange is asked again that could not be reached."""
PARAMETERS, VENUE, TRUTH = "parameters.json", "venue", "truth.jsonl"
VENUE_READY_S = 60.0
VENUE_IDLE_S = 900
"""A venue of the session's own that nobody uses for so long ends, and is started again when the session goes on."""


class TapeClock:
    """The venue's tape time, ms, moved by the driver."""

    def __init__(self, now: int) -> None:
        self.now = now

    def __call__(self) -> int:
        return self.now

    def set(self, now: int) -> None:
        self.now = now


def _passed_ns() -> int:
    """Time since some moment, which nobody sets; the machine's sleep counts, where its system tells."""
    return time.clock_gettime_ns(getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC))


class WallClock:
    """Milliseconds UTC: the machine's time when this was made, and what has passed since.

    Whoever sets the machine's clock meanwhile moves nothing: no timer, no age, no end of a session.

    Args:
        wall: the machine's time, ns UTC.
        passed: ns that pass evenly.
    """

    def __init__(self, wall: Callable[[], int] = time.time_ns, passed: Callable[[], int] = _passed_ns) -> None:
        self._passed = passed
        self._begin = wall() - passed()

    def __call__(self) -> int:
        return (self._begin + self._passed()) // 1_000_000

    def set(self, now: int) -> None:
        """Nobody moves this clock."""

    async def follow(self, rest: BinanceRestClient) -> None:
        """Go by the exchange's time where the machine's is wrong; where it can't be asked, by the machine's."""
        with suppress(VenueError):
            ahead = await rest.clock_offset()
            if abs(ahead) > WRONG_MS:
                log.warning("the machine's clock is %d ms ahead of the exchange's, which counts", ahead)
                self._begin -= ahead * 1_000_000


class VenueProcess:
    """The simulated venue of a session and its side channel, which is no part of Binance's wire."""

    def __init__(self, rest: str) -> None:
        self.rest, self.stream = rest, rest.replace("http", "ws", 1)
        self._web = aiohttp.ClientSession()
        self._socket: aiohttp.ClientWebSocketResponse | None = None

    @staticmethod
    async def own(run_dir: Path, config: Config, address: str) -> VenueProcess:
        """Reach the session's own venue; where it isn't there (any more) it is started, and goes on from its log.

        Args:
            address: where a run that goes on had it; another run's venue may have it by now. Empty for a new run.

        Raises:
            SessionError: it did not come up.
        """
        log = run_dir / VENUE / TRUTH
        if address and log.exists():
            venue = VenueProcess(address)
            with suppress(SessionError), log.open() as rows:
                if (await venue.status()).get("instance") == json.loads(rows.readline()).get("instance"):
                    return venue
            await venue.close()
        return await VenueProcess.start(run_dir, config)

    @staticmethod
    async def start(run_dir: Path, config: Config) -> VenueProcess:
        """Start `python -m voltrade venue` and wait until it listens.

        Raises:
            SessionError: it did not come up; the message ends with what it said.
        """
        # All but the rule and its settings: the exchange has no use for them.
        unused = {"rule", *type(config.signals).model_fields}
        parameters = {name: value for name, value in config.parameters().items() if name not in unused}
        (run_dir / PARAMETERS).write_text(json.dumps(parameters))
        log = run_dir / VENUE
        log.mkdir(mode=0o700, exist_ok=True)
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "voltrade", "venue"),
            *("--parameters", str(run_dir / PARAMETERS), "--log", str(log), "--idle-s", str(VENUE_IDLE_S)),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=(log / "venue.log").open("wb"),
            start_new_session=True,
        )
        assert process.stdout is not None
        try:
            line = await asyncio.wait_for(process.stdout.readline(), VENUE_READY_S)
            ready = json.loads(line)
        except (TimeoutError, ValueError):
            said = (log / "venue.log").read_text()[-2000:]
            raise SessionError(f"the simulated venue did not start: {said.strip()}") from None
        return VenueProcess(ready["rest"])

    async def status(self) -> dict[str, Any]:
        """Return its clock and how far its tape is.

        Raises:
            SessionError: it isn't there.
        """
        try:
            async with self._web.get(f"{self.rest}/voltrade/status") as response:
                status: dict[str, Any] = await response.json()
                return status
        except (aiohttp.ClientError, ValueError) as error:
            raise SessionError(f"venue: must be a running venue, was {self.rest}: {error}") from None

    async def ask(self, message: dict[str, Any]) -> dict[str, Any]:
        """Take one step of the side channel."""
        if self._socket is None:
            self._socket = await self._web.ws_connect(f"{self.rest}/voltrade/lockstep", max_msg_size=0)
        await self._socket.send_str(json.dumps(message))
        answer: dict[str, Any] = json.loads((await self._socket.receive()).data)
        if "error" in answer:
            raise SessionError(f"lockstep: {answer['error']}")
        return answer

    async def stop(self) -> None:
        """Tell it to end."""
        with suppress(aiohttp.ClientError):
            async with self._web.post(f"{self.rest}/voltrade/stop"):
                pass

    async def close(self) -> None:
        """Let go of it."""
        await self._web.close()


@dataclass
class Wiring:
    """An exchange as one session reaches it."""

    config: Config
    endpoint: Endpoint
    exchange: UsdmExchange
    rest: BinanceRestClient
    clock: TapeClock | WallClock
    instrument: Instrument
    gateway: OrderGateway
    account: str = ""
    """What the account's ledger is named by; empty for an account that begins and ends with the session."""
    former_account: str = ""
    """What the ledger was named by before the exchange was asked for the account's own name."""
    fingerprint: str = ""
    """What people call the account."""
    allowed_by: str = "no money is at stake"
    venue: VenueProcess | None = None
    is_own_venue: bool = False
    tape: Mapping[str, Any] = field(default_factory=dict)
    """Status of the simulated venue at the start."""

    @property
    def channel(self) -> VenueProcess | None:
        """The side channel, where the tape is the clock."""
        return self.venue if self.tape.get("lockstep") else None

    def take_account(self, folder: Path) -> None:
        """Once the account's ledger is ours: come back to the account on paper that is kept beside it."""
        if isinstance(self.gateway, PaperExchange):
            self.gateway = PaperExchange(self.config, self.instrument, self.clock, folder)

    def feed(self, system: LiveTradingSystem, after_trade_id: int) -> BinanceWSManager:
        """Return the streams that bring a session its events; not started yet."""
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
        )

    async def close(self) -> None:
        """Let go of everything; end a venue of the session's own."""
        if isinstance(self.gateway, PaperExchange):
            self.gateway.close()
        await self.exchange.close()
        if self.venue is not None:
            if self.is_own_venue:
                await self.venue.stop()
            await self.venue.close()


async def wire(
    config: Config,
    run_dir: Path,
    environment: Mapping[str, str],
    known_venue: str = "",
    known_account: str = "",
    goes_on: bool = False,
) -> Wiring:
    """Reach the exchange that a session's mode asks for; nothing but market data is asked of it yet.

    Args:
        config: the session's settings.
        run_dir: where a venue of the session's own leaves its log.
        environment: holds the keys of modes `demo` and `live`.
        known_venue: `sim`: the address of the venue of a run that goes on.
        known_account: `demo` and `live`: the account of a run that goes on.
        goes_on: an exchange that can't be reached is waited for: there may be a position to tend.

    Raises:
        ConfigError: mode `demo` or `live` lacks keys or a person's word; nothing was sent.
        SessionError: the simulated venue is not there.
        VenueError: the exchange can't be read.
    """
    if config.session.mode == "sim":
        return await _wire_sim(config, run_dir, known_venue, goes_on)
    if config.session.mode == "paper":
        return await _wire_paper(config, goes_on)
    if known_account:
        return await _wire_binance(config, permit_again(known_account, environment), goes_on)
    return await _wire_binance(config, permit(config, environment, datetime.now(UTC)))


async def reach(config: Config, environment: Mapping[str, str]) -> Wiring:
    """Reach the exchange of a mode for questions alone: keys are enough; `sim` needs a running venue.

    Raises:
        ConfigError: there are no keys.
        SessionError: the simulated venue is not there.
        VenueError: the exchange can't be read.
    """
    if config.session.mode == "sim":
        return await _wire_sim(config, Path(), config.session.venue)
    if config.session.mode == "paper":
        return await _wire_paper(config)
    credentials = Credentials.load(environment)
    return await _wire_binance(config, Permission(credentials, credentials.fingerprint, "nothing yet: asked only"))


async def _wire_sim(config: Config, run_dir: Path, known_venue: str, goes_on: bool = False) -> Wiring:
    given = config.session.venue
    venue = VenueProcess(given) if given else await VenueProcess.own(run_dir, config, known_venue)
    try:
        tape = await venue.status()
        endpoint = Endpoint.simulated(venue.rest, venue.stream)
        clock = TapeClock(tape["time"]) if tape["lockstep"] else WallClock()
        wiring = await _wired(config, endpoint, Credentials("sim-key", "sim-secret"), clock, goes_on)
    except BaseException:
        if not given:
            await venue.stop()
        await venue.close()
        raise
    wiring.venue, wiring.tape, wiring.is_own_venue = venue, tape, not given
    if given:
        wiring.account = wiring.former_account = f"sim {tape['instance']}"
    wiring.fingerprint = str(tape["instance"])[:12]
    return wiring


async def _wire_paper(config: Config, goes_on: bool = False) -> Wiring:
    wiring = await _wired(config, _endpoint(config), None, WallClock(), goes_on)
    wiring.account = wiring.former_account = f"paper {wiring.endpoint.rest} {config.session.symbol}"
    wiring.fingerprint = "paper"
    wiring.gateway = PaperExchange(config, wiring.instrument, wiring.clock)
    return wiring


async def _wire_binance(config: Config, permission: Permission, goes_on: bool = False) -> Wiring:
    wiring = await _wired(config, _endpoint(config), permission.credentials, WallClock(), goes_on)
    try:
        # By its own name: each of an account's keys has another fingerprint.
        wiring.account = f"{wiring.endpoint.rest} {await wiring.rest.account_name()}"
    except BaseException:
        await wiring.exchange.close()
        raise
    wiring.former_account = f"{wiring.endpoint.rest} {permission.account}"
    wiring.fingerprint, wiring.allowed_by = permission.account, permission.by
    return wiring


def _endpoint(config: Config) -> Endpoint:
    """Binance, its demo, or the simulated venue that stands in for either."""
    stand_in = config.session.venue
    if stand_in:
        return Endpoint.simulated(stand_in, stand_in.replace("http", "ws", 1))
    return DEMO if config.session.mode == "demo" else LIVE


async def _wired(
    config: Config, endpoint: Endpoint, credentials: Credentials | None, clock: TapeClock | WallClock, goes_on: bool
) -> Wiring:
    exchange = connect(endpoint, credentials, clock, config.execution.recv_window_ms)
    rest = BinanceRestClient(exchange, endpoint.name)
    try:
        instrument = await first_contact(rest, clock, config.session.symbol, goes_on)
    except BaseException:
        await exchange.close()
        raise
    return Wiring(config, endpoint, exchange, rest, clock, instrument, rest)


async def first_contact(
    rest: BinanceRestClient, clock: TapeClock | WallClock, symbol: str, goes_on: bool
) -> Instrument:
    """Set the clock and read the symbol's filters; for a run that goes on, as soon as the exchange can be reached.

    Raises:
        VenueError: it can't be, and the run is new.
    """
    while True:
        try:
            if isinstance(clock, WallClock):
                await clock.follow(rest)
            return await rest.instrument(symbol, any_status=goes_on)
        except VenueError as error:
            if not goes_on:
                raise
            log.warning("the exchange can't be reached, and is waited for: %s", error)
            await asyncio.sleep(REACH_AGAIN_S)
