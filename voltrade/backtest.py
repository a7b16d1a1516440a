"""The core over a tape, with the simulated exchange in process: the decisions that a lockstep `sim` session makes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy.typing as npt

from voltrade.config import Config
from voltrade.core import TradingCore
from voltrade.data import Tape
from voltrade.exchange.shipped import shipped_instrument
from voltrade.exchange.simulated import SimulatedExchange
from voltrade.exchange.tape import TapePlayer, simulate
from voltrade.lockstep import Ask, Collect, Execute, Finish, Horizon, Lockstep, Play, warm_up
from voltrade.model import Event, History, Instrument, Output, RoundTrip, Trades
from voltrade.rule_file import signal_engine_of
from voltrade.signal_engine import SignalEngine


@dataclass(frozen=True, slots=True)
class Backtest:
    """What a backtest did: closed bars with their verdicts, and every event and output but the trades, in order."""

    config: Config
    instrument: Instrument
    source: str
    synthetic: bool
    bars: npt.NDArray[Any]
    verdicts: npt.NDArray[Any]
    facts: list[Event | Output]

    @property
    def round_trips(self) -> list[RoundTrip]:
        return [fact for fact in self.facts if isinstance(fact, RoundTrip)]


def backtest(
    tape: Tape,
    config: Config,
    engine: SignalEngine | None = None,
    *,
    epoch: str = "bt",
    block: int | None = None,
    history: History | None = None,
) -> Backtest:
    """Trade a tape with these settings.

    Args:
        tape: trades of `config.session.symbol`.
        engine: a rule of one's own; by default the one of `config.session.rule`, or the built-in one.
        epoch: stands in the client order ids.
        block: most trades that the core is given at once; the result does not depend on it.
        history: what the core is given before, as a session that begins within a day is; it can't act on it.

    Raises:
        ConfigError: the settings are impossible under the symbol's filters, or the rule file is broken.
    """
    instrument = shipped_instrument(config.session.symbol)
    core = TradingCore(config, instrument, epoch, engine or signal_engine_of(config, instrument))
    exchange, player = simulate(config, tape.trades, batch=block)
    facts: list[Event | Output] = []

    def handle(event: Event) -> tuple[int, list[Output]]:
        if not isinstance(event, Trades):
            facts.append(event)
        consumed, outputs = core.handle(event)
        facts.extend(outputs)
        return consumed, outputs

    if history is not None:
        warm_up(handle, history)
    run = Lockstep(core, handle, exchange.clock).run()
    answer: Any = None
    try:
        while True:
            answer = _answer(run.send(answer), exchange, player)
    except StopIteration:
        fold = core.desks[instrument.symbol].fold
        return Backtest(config, instrument, tape.source, tape.synthetic, fold.bars, fold.verdicts, facts)


def _answer(ask: Ask, exchange: SimulatedExchange, player: TapePlayer) -> Any:
    match ask:
        case Horizon():
            return player.horizon()
        case Play():
            player.play(ask.trades, ask.mark, ask.time)
        case Execute(command=command):
            return exchange.execute(command)
        case Collect():
            return exchange.collect()
        case Finish():
            player.finish()
    return None
