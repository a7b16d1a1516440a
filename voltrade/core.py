"""TradingCore: events in, commands and notes out.

This is the only place where bars, signals, risk, orders and the account meet, and the whole of trading's logic: plain
synchronous code without I/O, clock, randomness or threads. Backtest, replay, paper and live are wirings of it. The same
events give the same outputs, bit for bit, however the trades are cut into blocks.

A signal passes the gates in the order of `GATES`, top to bottom; the first that says no gives the refusal its code.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from voltrade import risk
from voltrade.account import Account
from voltrade.config import BarSettings, Config, milliseconds
from voltrade.drift import Band, drift
from voltrade.errors import ConfigError, DataError
from voltrade.fold import Fold
from voltrade.model import (
    NEVER,
    AccountUpdate,
    Adoption,
    Alert,
    AlgoUpdate,
    BarPhase,
    BreakerChange,
    CloseReason,
    EquityPoint,
    Event,
    FeedGap,
    Instrument,
    Link,
    MarkPrice,
    Operator,
    OrderUpdate,
    Output,
    Refusal,
    Reply,
    Restart,
    RoundTrip,
    Side,
    Snapshot,
    TakeSnapshot,
    Timer,
    Trades,
    money_text,
)
from voltrade.oms import OrderMonitor
from voltrade.risk import CircuitBreaker
from voltrade.signal_engine import SignalEngine, refuse_other_overrides

GATES: tuple[risk.Gate, ...] = (
    risk.WARMING_UP,
    risk.NOT_LAST_BAR,
    risk.BAR_TAINTED,
    risk.DAY_END_BAR,
    risk.PAUSED,
    risk.HALTED_BY_PERSON,
    risk.DRAWDOWN,
    risk.DAILY_LOSS,
    risk.LOSING_STREAK,
    risk.TRADES_PER_DAY,
    risk.NOT_RECONCILED,
    risk.LINK_DOWN,
    risk.STALE_PRICE,
    risk.UNKNOWN_ORDER,
    risk.IN_POSITION,
    risk.COOLDOWN,
    risk.STOP_TOO_TIGHT,
    risk.LIQUIDATION_DISTANCE,
    risk.SIZE_TOO_SMALL,
    risk.MAX_NOTIONAL,
)
"""Every pre-trade check, in the order in which a signal meets them."""

REALISED_TOLERANCE = 100
"""Money by which the exchange's PnL of a fill may differ from ours before a person is told."""


@dataclass(slots=True)
class Desk:
    """Everything the core holds for one symbol."""

    instrument: Instrument
    fold: Fold
    engine: SignalEngine
    monitor: OrderMonitor
    limits: risk.Rows
    mark_e8: int = 0
    market_up: bool = True
    user_up: bool = False
    opened_at_bar: int = 0
    left_at: int = risk.NO_EXIT
    left_at_bar: int = 0
    band: Band | None = None
    """Bars that 24 hours should bring; None where nobody watches."""
    drifted: bool = False
    problems: list[str] = field(default_factory=list)
    """What about the account forbids trading it; a person has been told."""


class TradingCore:
    """One account's trading logic.

    Args:
        config: validated settings.
        instrument: the symbol's filters as the exchange states them.
        epoch: text that makes this session's client order ids its own.
        engine: the signal engine; a rule of one's own is a subclass of `SignalEngine`.

    Raises:
        ConfigError: the settings are impossible under the symbol's filters, or name a rule file without its engine; or
            the engine overrides more than its seams.
    """

    def __init__(self, config: Config, instrument: Instrument, epoch: str, engine: SignalEngine | None = None) -> None:
        config.check_against(instrument)
        self.config = config
        self.account: Account | None = None
        self.breaker: CircuitBreaker | None = None
        self.time = 0
        self._paused = ""
        self.end_reason = ""
        """Not empty: the session ends, or has ended, for this reason."""
        self._end_at = NEVER
        self._keep = False
        self._woken_at = -1
        """When it last took a `Timer`."""
        self._early: list[Operator] = []
        """Operators' commands from before there was an account, until the first snapshot."""
        if engine is None and config.session.rule:
            raise ConfigError(f"rule: the engine of {config.session.rule} must be given with it")
        engine = engine or SignalEngine(config.signals, instrument)
        refuse_other_overrides(type(engine))
        desk = Desk(
            instrument,
            Fold(instrument, config.bars, engine),
            engine,
            OrderMonitor(instrument, config.exits, config.execution, epoch),
            risk.limits_of(config, instrument),
            band=_band(config.bars),
        )
        self.desks = {instrument.symbol: desk}

    # --- the one rule ----------------------------------------------------------------------------------------------

    def handle(self, event: Event) -> tuple[int, list[Output]]:
        """Take an event; return how much of it was consumed, and what follows from it.

        A block of trades is consumed up to and including the first trade that something follows from, and never past
        what is due at `next_due`: carry out the commands, deliver what is due, then hand in the rest. Any other event
        is consumed whole, which counts as 1.
        """
        if isinstance(event, Trades):
            return self._on_trades(event)
        self.time = max(self.time, event.time)
        return 1, _HANDLERS[type(event)](self, event)

    @property
    def next_due(self) -> int:
        """When the core wants a `Timer`, ms; NEVER where it waits for nothing.

        Always later than the last `Timer`, so that no loop that delivers what is due can stand still.
        """
        due = NEVER if self.end_reason else self._end_at
        for desk in self.desks.values():
            due = min(due, desk.monitor.next_due)
        due = min(due, self.breaker.next_due) if self.breaker else due
        return max(due, self._woken_at + 1)

    @property
    def last_trade_id(self) -> int:
        """Id of the newest trade that it has seen, -1 before the first."""
        return max(desk.fold.last_trade_id for desk in self.desks.values())

    @property
    def finished(self) -> bool:
        """Whether the session's time is over and its stop policy has been carried out."""
        return bool(self.end_reason) and all(
            desk.monitor.holding is None or self._rests(desk) for desk in self.desks.values()
        )

    def end_of_tape(self, time: int) -> Operator:
        """Return the command that ends a session whose tape has nothing more."""
        policy = self.config.session.on_duration_end
        return Operator(time, "flatten" if policy == "flatten" else "protect", "TAPE_END", final=True)

    @staticmethod
    def bar_row(desk: Desk, number: int) -> dict[str, Any]:
        """Return a closed bar of the run and its verdict as plain values, for the journal."""
        bar, verdict = desk.fold.bars[number], desk.fold.verdicts[number]
        return {
            "index": number,
            **{name: bar[name].item() for name in bar.dtype.names},
            "verdict": {name: verdict[name].item() for name in verdict.dtype.names},
        }

    # --- what outlives a run ---------------------------------------------------------------------------------------

    def state(self) -> dict[str, Any] | None:
        """Return what the account's next run must know (`Adoption`) as plain JSON; None before the first snapshot."""
        if self.account is None or self.breaker is None:
            return None
        return {
            "wallet": self.account.wallet,
            "breaker": self.breaker.state(),
            "desks": {
                symbol: {
                    "quantity": self.account.positions[symbol].quantity,
                    "cost": self.account.positions[symbol].cost,
                    "left_at": desk.left_at,
                    "bars_since_exit": desk.fold.count - desk.left_at_bar,
                    "bars_held": desk.fold.count - desk.opened_at_bar,
                    "orders": desk.monitor.state(),
                }
                for symbol, desk in self.desks.items()
            },
        }

    def _on_adoption(self, adoption: Adoption) -> list[Output]:
        """Go on from where the account's last run ended: its limits, streaks, cooldowns, and the position in hand.

        Raises:
            DataError: the state isn't one that `state` returned, or holds a position in a symbol not traded here.
        """
        try:
            state = json.loads(adoption.state)
            others = [symbol for symbol in state["desks"] if symbol not in self.desks]
            if any(state["desks"][symbol]["orders"]["holding"] for symbol in others):
                raise DataError(
                    f"account: the last run holds a position in {', '.join(others)}, which isn't traded here"
                )
            self.account = Account(int(state["wallet"]))
            self.breaker = CircuitBreaker.restore(self.config.risk, state["breaker"])
            for symbol, desk in self.desks.items():
                held = self.account.open_symbol(desk.instrument)
                if symbol in state["desks"]:
                    saved = state["desks"][symbol]
                    held.quantity, held.cost = int(saved["quantity"]), int(saved["cost"])
                    desk.left_at = int(saved["left_at"])
                    desk.left_at_bar = desk.fold.count - int(saved["bars_since_exit"])
                    desk.opened_at_bar = desk.fold.count - int(saved["bars_held"])
                    desk.monitor.restore(saved["orders"], self.time)
        except (KeyError, TypeError, ValueError) as error:
            raise DataError(f"account: the saved state is broken: {error!r}") from None
        return []

    def _on_bar_phase(self, phase: BarPhase) -> list[Output]:
        self.desks[phase.symbol].fold.begin_at(phase)
        return []

    # --- trades, bars, signals -------------------------------------------------------------------------------------

    def _on_trades(self, trades: Trades) -> tuple[int, list[Output]]:
        desk = self.desks[trades.symbol]
        before = desk.fold.count
        consumed = desk.fold.fold(trades, 0, self.next_due, self._wake_at_bar(desk))
        self.time = max(self.time, desk.fold.last_time)
        if desk.fold.count == before:
            return consumed, []
        return consumed, self._on_bars(desk, before)

    def _wake_at_bar(self, desk: Desk) -> int:
        most = self.config.exits.max_holding_bars
        return desk.opened_at_bar + most if most and desk.monitor.position else NEVER

    def _on_bars(self, desk: Desk, before: int) -> list[Output]:
        outputs: list[Output] = []
        for index in np.flatnonzero(desk.fold.verdicts["signal"][before:]) + before:
            outputs += self._on_signal(desk, int(index))
        if desk.fold.count >= self._wake_at_bar(desk):
            outputs += desk.monitor.leave(self.time, "TIME")
        return outputs

    def _on_signal(self, desk: Desk, bar: int) -> list[Output]:
        """Leave on an opposite signal; enter where every gate lets the signal pass."""
        monitor = desk.monitor
        side = Side(int(desk.fold.verdicts[bar]["signal"]))
        outputs: list[Output] = []
        opposite = monitor.holding is not None and monitor.holding.side is not side
        if opposite and self.config.exits.exit_on_opposite_signal:
            outputs += monitor.leave(self.time, "OPPOSITE_SIGNAL")
        facts = self._facts(desk, bar)
        gate = risk.first_refusal(GATES, facts, desk.limits)
        if gate is not None:
            detail = self.breaker.detail(gate.code) if self.breaker and gate.code in risk.RULES else gate.text
            return [*outputs, Refusal(self.time, desk.instrument.symbol, bar, side, gate.code, detail)]
        fact = facts[0]
        return outputs + monitor.enter(
            self.time,
            side,
            int(fact["quantity"]),
            stop_distance=int(fact["stop_ticks"]),
            take_profit_distance=self._distance(desk, bar, self.config.exits.take_profit_atr),
            collar=self._collar(side, int(fact["price"])),
            bar_number=bar,
        )

    def _facts(self, desk: Desk, bar: int) -> risk.Rows:
        """Say what the gates and the size need to know of this bar, the system and the account."""
        facts = risk.new_facts()
        fact, row, monitor = facts[0], desk.fold.bars[bar], desk.monitor
        fact["time"], fact["price_time"] = self.time, desk.fold.last_time
        fact["warming_up"] = not desk.fold.verdicts[bar]["ready"]
        fact["last_bar"] = bar == desk.fold.count - 1
        fact["tainted"] = row["tainted"]
        fact["day_end"] = row["close_reason"] == CloseReason.DAY_END
        fact["paused"] = bool(self._paused)
        fact["reconciled"] = monitor.reconciled
        fact["market_stream_up"] = desk.market_up
        fact["user_stream_up"] = desk.user_up
        fact["unknown_orders"] = monitor.has_unknown
        fact["round_trips"] = monitor.holding is not None
        fact["last_exit_time"] = desk.left_at
        fact["bars_since_exit"] = bar + 1 - desk.left_at_bar
        fact["price"] = row["close"]
        fact["stop_ticks"] = self._distance(desk, bar, self.config.exits.stop_atr)
        if self.account is not None and self.breaker is not None:
            fact["wallet"] = fact["available"] = self.account.wallet
            self.breaker.fill(facts)
        fact["quantity"] = risk.position_size(facts, desk.limits)
        return facts

    def _distance(self, desk: Desk, bar: int, multiple: float) -> int:
        return risk.stop_distance(float(desk.fold.verdicts[bar]["atr"]), multiple, float(desk.instrument.tick_size))

    def _collar(self, side: Side, price: int) -> int:
        """Limit of an `ioc_limit` entry, ticks; rounded towards the price."""
        most = risk.rate_e8(self.config.execution.max_slippage_bps / 10_000)
        return price + side * int(risk.share(price, most))

    # --- orders and the account ------------------------------------------------------------------------------------

    def _on_order(self, update: OrderUpdate) -> list[Output]:
        desk = self.desks[update.symbol]
        filled = desk.monitor.explains(update) and desk.monitor.is_new_fill(update)
        held = desk.monitor.position
        outputs = self._book(desk, update) if filled else []
        news = desk.monitor.on_order(update)
        return outputs + self._after_orders(desk, held, news) + (self._value(desk) if filled else [])

    def _on_algo(self, update: AlgoUpdate) -> list[Output]:
        desk = self.desks[update.symbol]
        held = desk.monitor.position
        return self._after_orders(desk, held, desk.monitor.on_algo(update))

    def _on_reply(self, reply: Reply) -> list[Output]:
        desk = self.desks[reply.symbol]
        held = desk.monitor.position
        return self._after_orders(desk, held, desk.monitor.on_reply(reply))

    def _book(self, desk: Desk, update: OrderUpdate) -> list[Output]:
        """Book a fill; the exchange's own PnL must be ours, within its rounding."""
        account = self.account
        assert account is not None, "a fill before the first snapshot"
        symbol, quote = desk.instrument.symbol, desk.instrument.quote_asset
        outputs: list[Output] = []
        if update.fee_asset not in ("", quote):
            text = f"fill {update.trade_id}: its fee was paid in {update.fee_asset} and is missing from the costs"
            outputs.append(Alert(self.time, "FEE_ASSET", text))
        realised = account.apply_fill(symbol, update.side, update.last_price, update.last_quantity, update.fee)
        if abs(realised - update.realised) > REALISED_TOLERANCE:
            text = f"fill {update.trade_id}: {money_text(update.realised)}, ours is {money_text(realised)}"
            outputs.append(Alert(self.time, "REALISED_DIFFERS", text))
        return outputs

    def _after_orders(self, desk: Desk, held: int, outputs: list[Output]) -> list[Output]:
        """Tell the breaker and the cooldown of round trips that began or ended."""
        breaker, monitor = self.breaker, desk.monitor
        if breaker is None:
            return outputs
        changes: list[BreakerChange] = []
        if not held and monitor.position:
            desk.opened_at_bar = desk.fold.count
            changes += breaker.on_round_trip_opened(self.time)
        for output in outputs:
            if isinstance(output, RoundTrip):
                desk.left_at, desk.left_at_bar = output.closed_at, desk.fold.count
                changes += breaker.on_round_trip_closed(self.time, output.net)
        if monitor.halt_reason and breaker.reason != monitor.halt_reason:
            changes += breaker.halt(self.time, monitor.halt_reason)
        return outputs + self._obey(changes)

    def _obey(self, changes: list[BreakerChange]) -> list[Output]:
        """Carry out what the breaker wants."""
        outputs: list[Output] = list(changes)
        for change in changes:
            for desk in self.desks.values():
                if change.action == "flatten":
                    outputs += desk.monitor.leave(self.time, change.rule)
                elif change.action == "cancel":
                    outputs += desk.monitor.cancel_entry(self.time, change.rule)
        return outputs

    def _value(self, desk: Desk) -> list[Output]:
        """Value the account at mark, or at the last trade where there is no mark, and let the breaker see it."""
        account, breaker = self.account, self.breaker
        if account is None or breaker is None:
            return []
        symbol = desk.instrument.symbol
        unrealised = account.unrealised({symbol: desk.mark_e8}, {symbol: desk.fold.last_price})
        equity = account.wallet + unrealised
        point = EquityPoint(
            self.time,
            symbol,
            account.wallet,
            unrealised,
            equity,
            account.positions[symbol].quantity,
            "mark" if desk.mark_e8 else "last",
        )
        return [point, *self._obey(breaker.on_equity(self.time, equity))]

    def _on_mark(self, mark: MarkPrice) -> list[Output]:
        desk = self.desks[mark.symbol]
        desk.mark_e8 = mark.price_e8
        return [*self._value(desk), *self._watch_bars(desk)]

    def _watch_bars(self, desk: Desk) -> list[Output]:
        """Tell a person once when bars come too fast or too slowly for their threshold."""
        bars, band = desk.fold.bars, desk.band
        if band is None or not len(bars):
            return []
        drifted = drift(band.threshold, band, bars["close_time"], int(bars["close_time"][0]), self.time)
        is_news = drifted is not None and not desk.drifted
        desk.drifted = drifted is not None
        return [Alert(self.time, "BARS_DRIFTED", str(drifted))] if is_news else []

    def _on_account(self, update: AccountUpdate) -> list[Output]:
        """Book what only the exchange knows of: funding and transfers. Fills bring their own amounts."""
        account, breaker = self.account, self.breaker
        if account is None or breaker is None or update.reason == "ORDER":
            return []
        amount = update.wallet - account.wallet
        if update.reason == "FUNDING_FEE":
            account.apply_funding(amount)
            for desk in self.desks.values():
                desk.monitor.add_funding(amount)
            return []
        if not amount:
            return []
        account.apply_transfer(amount)
        text = f"{update.reason}: {money_text(amount)}"
        return [Alert(self.time, "TRANSFER", text), *self._obey(breaker.on_transfer(self.time, amount))]

    def _on_snapshot(self, snapshot: Snapshot) -> list[Output]:
        desk = self.desks[snapshot.symbol]
        outputs = self._open_account(desk, snapshot)
        held = desk.monitor.position
        for fill in desk.monitor.explained(snapshot):
            outputs += self._book(desk, fill)
        outputs += self._after_orders(desk, held, desk.monitor.on_snapshot(snapshot))
        assert self.account is not None
        problems = self._mismatches(snapshot)
        if self.account.wallet != snapshot.wallet:
            theirs, ours = money_text(snapshot.wallet), money_text(self.account.wallet)
            outputs.append(Alert(self.time, "WALLET_DIFFERS", f"the exchange has {theirs}, our books {ours}"))
        if problems:
            desk.monitor.disagree(self.time)
        if problems != desk.problems:
            outputs += [Alert(self.time, "ACCOUNT_MISMATCH", problem) for problem in problems]
            desk.problems = problems
        return outputs

    def _open_account(self, desk: Desk, snapshot: Snapshot) -> list[Output]:
        """At the first snapshot: take the account as it is, unless a run before has left its own books.

        Operators' commands that came before there was a breaker are carried out now, in their order.
        """
        if self.account is None:
            self.account = Account(snapshot.wallet)
            self.account.open_symbol(desk.instrument)
            self.breaker = CircuitBreaker(self.config.risk, snapshot.time, snapshot.wallet)
        desk.limits = risk.limits_of(self.config, desk.instrument, snapshot.taker_fee_e8)
        session = self.config.session
        if session.duration_s and session.on_duration_end != "carry_on" and self._end_at == NEVER:
            self._end_at = snapshot.time + milliseconds(session.duration_s)
        early, self._early = self._early, []
        return [output for command in early for output in self._on_operator(command)]

    def _mismatches(self, snapshot: Snapshot) -> list[str]:
        """What about the account forbids trading it with these settings."""
        wanted = self.config.risk
        problems = []
        if snapshot.hedge_mode:
            problems.append("position mode must be one-way, was hedge")
        if snapshot.multi_assets:
            problems.append("margin mode must be single-asset, was multi-assets")
        if snapshot.leverage != wanted.leverage:
            problems.append(f"leverage must be {wanted.leverage}, was {snapshot.leverage}")
        if snapshot.margin_type != wanted.margin_type:
            problems.append(f"margin type must be {wanted.margin_type}, was {snapshot.margin_type}")
        return problems

    # --- time, links, people ---------------------------------------------------------------------------------------

    def _on_timer(self, timer: Timer) -> list[Output]:
        self._woken_at = self.time
        outputs: list[Output] = []
        for desk in self.desks.values():
            held = desk.monitor.position
            outputs += self._after_orders(desk, held, desk.monitor.on_time(self.time))
        if self.breaker:
            outputs += self._obey(self.breaker.on_time(self.time))
        if self.time >= self._end_at and not self.end_reason:
            self.end_reason = "DURATION_END"
            policy = self.config.session.on_duration_end
            self._keep = policy != "flatten"
            outputs += self._stop("protect" if self._keep else "flatten", "DURATION_END")
        return outputs

    def _on_link(self, link: Link) -> list[Output]:
        outputs: list[Output] = []
        for desk in self.desks.values():
            if link.stream == "market":
                desk.market_up = link.up
                continue
            desk.user_up = link.up
            desk.monitor.reconciled = False
            if link.up:
                outputs.append(TakeSnapshot(self.time, desk.instrument.symbol, "USER_STREAM_UP"))
        return outputs

    def _on_restart(self, restart: Restart) -> list[Output]:
        outputs: list[Output] = []
        for desk in self.desks.values():
            desk.user_up = False
            outputs += desk.monitor.on_restart(self.time)
        return outputs

    def _on_gap(self, gap: FeedGap) -> list[Output]:
        missing = gap.last_id - gap.first_id + 1 - gap.filled
        if not missing:
            return []
        text = f"trades {gap.first_id}-{gap.last_id}: {missing} missing; the bar is tainted"
        return [Alert(self.time, "FEED_GAP", text)]

    def _on_operator(self, command: Operator) -> list[Output]:
        """Carry out a command. One that comes before there is an account acts on what there is, and again later."""
        breaker, reason = self.breaker, command.reason or "OPERATOR"
        if breaker is None:
            self._early.append(command)
        if command.final:
            self.end_reason = self.end_reason or reason
        if command.action in ("flatten", "protect"):
            self._keep = command.action == "protect"
            return self._stop(command.action, reason)
        if command.action == "pause":
            self._paused = reason
            return []
        if command.action == "resume":
            self._paused = ""
            for desk in self.desks.values():
                desk.monitor.halt_reason = ""
        if breaker is None:
            return []
        act = {"resume": breaker.resume, "reduce": breaker.reduce, "halt": breaker.halt}[command.action]
        return self._obey(act(self.time, reason))

    def _stop(self, action: str, reason: str) -> list[Output]:
        """No more entries; leave the position, or keep it with its stop at the exchange."""
        self._paused = reason
        outputs: list[Output] = []
        for desk in self.desks.values():
            if action == "flatten":
                outputs += desk.monitor.leave(self.time, reason)
            else:
                outputs += desk.monitor.cancel_entry(self.time, reason)
        return outputs

    def _rests(self, desk: Desk) -> bool:
        """Whether the position is kept on purpose and its stop rests at the exchange."""
        return self._keep and desk.monitor.protected


def _band(settings: BarSettings) -> Band | None:
    if not (settings.least_bars_a_day or settings.most_bars_a_day):
        return None
    return Band(settings.threshold, settings.least_bars_a_day, settings.most_bars_a_day or math.inf)


_HANDLERS: dict[type, Callable[[TradingCore, Any], list[Output]]] = {
    MarkPrice: TradingCore._on_mark,
    FeedGap: TradingCore._on_gap,
    OrderUpdate: TradingCore._on_order,
    AlgoUpdate: TradingCore._on_algo,
    AccountUpdate: TradingCore._on_account,
    Reply: TradingCore._on_reply,
    Snapshot: TradingCore._on_snapshot,
    Timer: TradingCore._on_timer,
    Operator: TradingCore._on_operator,
    Link: TradingCore._on_link,
    BarPhase: TradingCore._on_bar_phase,
    Adoption: TradingCore._on_adoption,
    Restart: TradingCore._on_restart,
}
