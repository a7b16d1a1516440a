"""TradingCore: events in, commands and notes out.

This is the only place where bars, signals, risk, orders and the account meet, and the whole of trading's logic: plain
synchronous code without I/O, clock, randomness or threads. Backtest, replay, paper and live are wirings of it. The same
events give the same outputs, bit for bit, however the trades are cut into blocks.

A signal passes the gates in the order of `GATES`, top to bottom; the first that says no gives the refusal its code.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

import numpy as np
from numba import types

from voltrade import core_rules, records, risk
from voltrade.account import Account, Position
from voltrade.bar_pipeline import BarPipeline
from voltrade.bar_rate import bar_rate_alert
from voltrade.books import Books
from voltrade.compiled import BARE, Rows, compile_for, plain, rows_of
from voltrade.config import Config, milliseconds
from voltrade.errors import ConfigError, DataError
from voltrade.model import (
    NEVER,
    AccountUpdate,
    Alert,
    AlgoUpdate,
    BarResumePoint,
    EngineRestarted,
    Event,
    FeedGap,
    Filters,
    Instrument,
    LookupOrder,
    MarkPrice,
    Operator,
    OrderUpdate,
    Output,
    Reply,
    ResumeState,
    Snapshot,
    StreamStatus,
    TakeSnapshot,
    Timer,
    Trades,
    Trouble,
    money_text,
)
from voltrade.oms import OrderMonitor
from voltrade.order_states import NONE
from voltrade.records import Event as Told
from voltrade.risk import CircuitBreaker
from voltrade.signal_engine import SignalEngine, refuse_other_overrides
from voltrade.symbol_state import SymbolState, expected_range

GATES: tuple[risk.Gate, ...] = (
    risk.WARMING_UP,
    risk.NOT_LAST_BAR,
    risk.BAR_TAINTED,
    risk.DAY_END_BAR,
    risk.PAUSED,
    risk.HALTED_BY_OPERATOR,
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

MOST_UNEQUAL = 3
"""So often the account is read again at once because its wallet isn't that of our books."""

on_signal = core_rules.decision(GATES)
"""The step that takes a signal through the gates, as both live trading and a backtest call it."""


def _decide(accounts: Rows, symbols: Rows, place: int, signals: Rows) -> None:
    on_signal(accounts[0], symbols[place], signals[0])


@cache
def _step() -> Callable[[Rows, Rows, int, Rows], None]:
    """`on_signal` for one signal, compiled when it is first needed."""
    kinds = (rows_of(records.ACCOUNT), rows_of(records.SYMBOL), types.int64, rows_of(records.SIGNAL))
    return compile_for(_decide, types.void(*kinds), **BARE)  # type: ignore[no-any-return]


class TradingCore:
    """One account's trading logic.

    Args:
        config: validated settings.
        instrument: the symbol's filters as the exchange states them.
        epoch: text that makes this session's client order ids its own.
        engine: the signal engine; a rule of one's own is a subclass of `SignalEngine`.
        others: further symbols, traded by the built-in rule under the same settings.

    Raises:
        ConfigError: the settings are impossible under a symbol's filters, or name a rule file without its engine; or
            the engine overrides more than its seams.
    """

    def __init__(
        self,
        config: Config,
        instrument: Instrument,
        epoch: str,
        engine: SignalEngine | None = None,
        others: Sequence[Instrument] = (),
    ) -> None:
        self.config = config
        self.time = 0
        self._early: list[Operator] = []
        """Operators' commands from before there was an account, until the first snapshot."""
        if engine is None and config.session.rule:
            raise ConfigError(f"rule: the engine of {config.session.rule} must be given with it")
        self._books = Books(1 + len(others))
        self._answers: dict[int, int] = {}
        self._unexplained = self._unequal = 0
        """By how much the exchange's wallet differed from our books when it was last read, and how often in a row."""
        self._signal = np.zeros(1, records.SIGNAL)
        row = self._books.account
        core_rules.set_gates(row, GATES)
        row["flatten_at_end"] = config.session.on_duration_end == "flatten"
        self.symbol_states: dict[str, SymbolState] = {}
        for place, each in enumerate((instrument, *others)):
            config.check_against(each)
            mine = engine if engine is not None and not place else SignalEngine(config.signals, each)
            refuse_other_overrides(type(mine))
            self.symbol_states[each.symbol] = self._open_symbol(each, mine, epoch, place)

    def _open_symbol(self, instrument: Instrument, engine: SignalEngine, epoch: str, place: int) -> SymbolState:
        config = self.config
        monitor = OrderMonitor(instrument, config.exits, config.execution, epoch, self._books, place, GATES)
        symbol_state = SymbolState(instrument, BarPipeline(instrument, config.bars, engine), engine, monitor, place)
        symbol_state.expected_range = expected_range(config.bars)
        row = self._books.symbols[place]
        row["limits"] = risk.limits_of(config, instrument)
        row["facts"]["market_stream_up"] = True
        return symbol_state

    # --- what is believed, for people ------------------------------------------------------------------------------

    @property
    def account(self) -> Account | None:
        """The account's books as they are now; None before the first snapshot."""
        row = self._books.account
        if not row["is_open"]:
            return None
        account = Account(int(row["wallet"]), int(row["realised"]), int(row["fees"]))
        account.funding, account.transfers = int(row["funding"]), int(row["transfers"])
        for symbol, symbol_state in self.symbol_states.items():
            held = self._books.symbols[symbol_state.place]
            account.positions[symbol] = Position(symbol_state.instrument, int(held["quantity"]), int(held["cost"]))
        return account

    @property
    def breaker(self) -> CircuitBreaker | None:
        """The account's circuit breaker; None before the first snapshot."""
        return self._books.breaker

    @property
    def end_reason(self) -> str:
        """Not empty: the session ends, or has ended, for this reason."""
        return self._books.word(int(self._books.account["end_reason"]))

    @property
    def paused(self) -> str:
        """Not empty: a person keeps the session from entering, for this reason."""
        return self._books.word(int(self._books.account["paused"]))

    # --- the one rule ----------------------------------------------------------------------------------------------

    def handle(self, event: Event) -> tuple[int, list[Output]]:
        """Take an event; return how much of it was consumed, and what follows from it.

        A block of trades is consumed up to and including the first trade that something follows from, and never past
        what is due at `next_due`: carry out the commands, deliver what is due, then hand in the rest. Any other event
        is consumed whole, which counts as 1.
        """
        try:
            if isinstance(event, Trades):
                return self._on_trades(event)
            self._at(event.time)
            return 1, _HANDLERS[type(event)](self, event)
        finally:
            self._answers.clear()

    def _ask(self, question: int) -> int:
        """Ask the books about the account; the answer stands until an event is handled."""
        if question not in self._answers:
            self._answers[question] = self._books.ask(question)
        return self._answers[question]

    def _at(self, time: int) -> None:
        self.time = max(self.time, time)
        self._books.account["now"] = self.time

    @property
    def next_due(self) -> int:
        """When the core wants a `Timer`, ms; NEVER where it waits for nothing.

        Always later than the last `Timer`, so that no loop that delivers what is due can stand still.
        """
        return self._ask(records.NEXT_DUE)

    @property
    def last_trade_id(self) -> int:
        """Id of the newest trade that it has seen, -1 before the first."""
        return max(symbol_state.pipeline.last_trade_id for symbol_state in self.symbol_states.values())

    @property
    def finished(self) -> bool:
        """Whether the session's time is over and its stop policy has been carried out."""
        return bool(self._ask(records.IS_FINISHED))

    def end_of_tape(self, time: int) -> Operator:
        """Return the command that ends a session whose tape has nothing more."""
        policy = self.config.session.on_duration_end
        return Operator(time, "flatten" if policy == "flatten" else "protect", "TAPE_END", final=True)

    @staticmethod
    def bar_row(symbol_state: SymbolState, number: int) -> dict[str, Any]:
        """Return a closed bar of the run and its decision as plain values, for the journal."""
        bar, decision = symbol_state.pipeline.bars[number], symbol_state.pipeline.decisions[number]
        return {
            "index": number,
            **{name: bar[name].item() for name in bar.dtype.names},
            "decision": {name: decision[name].item() for name in decision.dtype.names},
        }

    # --- what outlives a run ---------------------------------------------------------------------------------------

    def state(self) -> dict[str, Any] | None:
        """Return what the account's next run must know (`ResumeState`) as JSON; None before the first snapshot."""
        account, breaker = self.account, self.breaker
        if account is None or breaker is None:
            return None
        return {
            "wallet": account.wallet,
            "breaker": breaker.state(),
            "symbol_states": {
                symbol: {
                    "quantity": account.positions[symbol].quantity,
                    "cost": account.positions[symbol].cost,
                    "left_at": int(row["last_exit_time"]),
                    "bars_since_exit": symbol_state.pipeline.count - int(row["last_exit_bar"]),
                    "bars_held": symbol_state.pipeline.count - int(row["opened_at_bar"]),
                    "orders": symbol_state.monitor.state(),
                }
                for symbol, symbol_state in self.symbol_states.items()
                for row in [self._books.symbols[symbol_state.place]]
            },
        }

    def _on_resume_state(self, adoption: ResumeState) -> list[Output]:
        """Go on from where the account's last run ended: its limits, streaks, cooldowns, and the position in hand.

        Raises:
            DataError: the state isn't one that `state` returned, or holds a position in a symbol not traded here.
        """
        try:
            state = json.loads(adoption.state)
            others = [symbol for symbol in state["symbol_states"] if symbol not in self.symbol_states]
            if any(state["symbol_states"][symbol]["orders"]["open_position"] for symbol in others):
                raise DataError(
                    f"account: the last run holds a position in {', '.join(others)}, which isn't traded here"
                )
            self._open(int(state["wallet"]))
            books = self._books
            books.breaker = CircuitBreaker.restore(self.config.risk, state["breaker"], books.breaker_rows)
            for symbol, symbol_state in self.symbol_states.items():
                if symbol in state["symbol_states"]:
                    saved, row = state["symbol_states"][symbol], books.symbols[symbol_state.place]
                    row["quantity"], row["cost"] = int(saved["quantity"]), int(saved["cost"])
                    row["last_exit_time"] = int(saved["left_at"])
                    row["last_exit_bar"] = symbol_state.pipeline.count - int(saved["bars_since_exit"])
                    row["opened_at_bar"] = symbol_state.pipeline.count - int(saved["bars_held"])
                    symbol_state.monitor.restore(saved["orders"], self.time)
        except (KeyError, TypeError, ValueError) as error:
            raise DataError(f"account: the saved state is broken: {error!r}") from None
        return []

    def _open(self, wallet: int) -> None:
        row = self._books.account
        row["wallet"], row["is_open"] = wallet, True

    def _on_bar_resume_point(self, phase: BarResumePoint) -> list[Output]:
        self.symbol_states[phase.symbol].pipeline.resume_from(phase)
        return []

    # --- trades, bars, signals -------------------------------------------------------------------------------------

    def _on_trades(self, trades: Trades) -> tuple[int, list[Output]]:
        symbol_state = self.symbol_states[trades.symbol]
        row, before = self._books.symbols[symbol_state.place], symbol_state.pipeline.count
        consumed = symbol_state.pipeline.process(trades, 0, self.next_due, self._wake_at_bar(symbol_state))
        self._at(symbol_state.pipeline.last_time)
        symbol_state.see_bars(row)
        if symbol_state.pipeline.count == before:
            return consumed, []
        return consumed, self._on_bars(symbol_state, before)

    def _wake_at_bar(self, symbol_state: SymbolState) -> int:
        """Number of bars at which the position in hand is held long enough."""
        return self._books.ask(records.WAKE_AT_BAR, symbol_state.place)

    def _on_bars(self, symbol_state: SymbolState, before: int) -> list[Output]:
        outputs: list[Output] = []
        for bar in np.flatnonzero(symbol_state.pipeline.decisions["signal"][before:]) + before:
            outputs += self._on_signal(symbol_state, int(bar))
        return outputs + self._books.react(Told(records.BARS_CLOSED, symbol_state.place))

    def _on_signal(self, symbol_state: SymbolState, bar: int) -> list[Output]:
        """Let a bar whose rule wants an entry pass the gates; see `core_rules`."""
        row, decision = symbol_state.pipeline.bars[bar], symbol_state.pipeline.decisions[bar]
        said = int(decision["signal"]), bool(decision["ready"]), float(decision["atr"])
        settings = self._books.column("settings")[symbol_state.place]
        plain(core_rules.fill_signal)(
            self._signal[0], bar, row, *said, bar == symbol_state.pipeline.count - 1, settings
        )
        return self._books.decide(_step(), symbol_state.place, self._signal)

    # --- orders and the account ------------------------------------------------------------------------------------

    def _on_order(self, update: OrderUpdate) -> list[Output]:
        return self.symbol_states[update.symbol].monitor.on_order(update)

    def _on_algo(self, update: AlgoUpdate) -> list[Output]:
        return self.symbol_states[update.symbol].monitor.on_algo(update)

    def _on_reply(self, reply: Reply) -> list[Output]:
        return self.symbol_states[reply.symbol].monitor.on_reply(reply)

    def _on_mark(self, mark: MarkPrice) -> list[Output]:
        symbol_state = self.symbol_states[mark.symbol]
        outputs = self._books.react(Told(records.MARKED, symbol_state.place, amount=mark.price_e8))
        return [*outputs, *self._watch_bars(symbol_state)]

    def _watch_bars(self, symbol_state: SymbolState) -> list[Output]:
        """Tell a person once when bars come too fast or too slowly for their threshold."""
        times, expected = symbol_state.pipeline.bars["close_time"], symbol_state.expected_range
        if expected is None or not len(times):
            return []
        found = bar_rate_alert(expected.threshold, expected, times, int(times[0]), self.time)
        is_new = found is not None and not symbol_state.is_bar_rate_alerted
        symbol_state.is_bar_rate_alerted = found is not None
        return [Alert(self.time, "BAR_RATE", str(found))] if is_new else []

    def _on_account(self, update: AccountUpdate) -> list[Output]:
        """Book what only the exchange knows of: funding and transfers. Fills bring their own amounts."""
        if not self._books.account["is_open"] or update.reason == "ORDER" or not update.change:
            return []
        if update.reason == "FUNDING_FEE" and update.symbol in ("", *self.symbol_states):
            return self._books.react(Told(records.FUNDED, amount=update.change))
        return self._adjust(update.change, update.reason)

    def _adjust(self, amount: int, why: str) -> list[Output]:
        """Book money that is neither profit nor loss of ours, and tell a person."""
        alert = Alert(self.time, "TRANSFER", f"{why}: {money_text(amount)}")
        return [alert, *self._books.react(Told(records.TRANSFERRED, amount=amount))]

    def _on_snapshot(self, snapshot: Snapshot) -> list[Output]:
        symbol_state = self.symbol_states[snapshot.symbol]
        outputs = self._open_account(symbol_state, snapshot)
        outputs += symbol_state.monitor.on_snapshot(snapshot)
        problems, wallet = self._mismatches(snapshot), int(self._books.account["wallet"])
        differs = wallet != snapshot.wallet
        # What is looked up may be an order whose fill our books don't know yet: the account is asked again first.
        is_asking = any(isinstance(output, LookupOrder) for output in outputs)
        if not is_asking and symbol_state.monitor.reconciled:
            outputs += self._explain_wallet(symbol_state, snapshot.wallet - wallet)
        if problems or (differs and is_asking and symbol_state.monitor.reconciled):
            symbol_state.monitor.disagree(self.time, symbol_state.problem_count)
        symbol_state.problem_count = symbol_state.problem_count + 1 if problems else 0
        if problems != symbol_state.problems:
            outputs += [Alert(self.time, "ACCOUNT_MISMATCH", problem) for problem in problems]
            symbol_state.problems = problems
        return outputs

    def _explain_wallet(self, symbol_state: SymbolState, difference: int) -> list[Output]:
        """Book what the exchange has more, or less, though no fill is missing: money of which no event has told.

        It may be on its way, so the account is read once more before: only what is still there is booked.
        """
        seen, self._unexplained = self._unexplained, difference
        self._unequal = self._unequal + 1 if difference else 0
        if not difference or difference != seen:
            if difference and self._unequal <= MOST_UNEQUAL:
                symbol_state.monitor.ask_again(self.time)
            return []
        self._unexplained = self._unequal = 0
        return self._adjust(difference, "the exchange's wallet differs from our books, which take it over")

    def _open_account(self, symbol_state: SymbolState, snapshot: Snapshot) -> list[Output]:
        """At the first snapshot: take the account as it is, unless a run before has left its own books.

        Operators' commands that came before there was a breaker are carried out now, in their order.
        """
        books, session = self._books, self.config.session
        row = books.account
        if books.breaker is None:
            self._open(snapshot.wallet)
            books.breaker = CircuitBreaker(self.config.risk, snapshot.time, snapshot.wallet, books.breaker_rows)
        limits = risk.limits_of(self.config, symbol_state.instrument, snapshot.taker_fee_e8)
        books.symbols[symbol_state.place]["limits"] = limits
        if session.duration_s and session.on_duration_end != "carry_on" and row["end_at"] == NEVER:
            row["end_at"] = snapshot.time + milliseconds(session.duration_s)
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
        return self._books.react(Told(records.TIMER_DUE))

    def _on_stream_status(self, link: StreamStatus) -> list[Output]:
        outputs: list[Output] = []
        for symbol_state in self.symbol_states.values():
            facts = self._books.symbols[symbol_state.place]["facts"]
            if link.stream == "market":
                facts["market_stream_up"] = link.up
                continue
            facts["user_stream_up"] = link.up
            symbol_state.monitor.reconciled = False
            if link.up:
                outputs.append(TakeSnapshot(self.time, symbol_state.instrument.symbol, "USER_STREAM_UP"))
        return outputs

    def _on_restart(self, restart: EngineRestarted) -> list[Output]:
        outputs: list[Output] = []
        for symbol_state in self.symbol_states.values():
            self._books.symbols[symbol_state.place]["facts"]["user_stream_up"] = False
            outputs += symbol_state.monitor.on_restart(self.time)
        return outputs

    def _on_filters(self, filters: Filters) -> list[Output]:
        return self.symbol_states[filters.symbol].monitor.on_filters(filters)

    def _on_trouble(self, trouble: Trouble) -> list[Output]:
        return [Alert(trouble.time, trouble.code, trouble.text)]

    def _on_gap(self, gap: FeedGap) -> list[Output]:
        missing = gap.last_id - gap.first_id + 1 - gap.filled
        if not missing:
            return []
        text = f"trades {gap.first_id}-{gap.last_id}: {missing} missing; the bar is tainted"
        return [Alert(self.time, "FEED_GAP", text)]

    def _on_operator(self, command: Operator) -> list[Output]:
        """Carry out a command. One that comes before there is an account acts on what there is, and again later."""
        breaker, reason, row = self.breaker, command.reason or "OPERATOR", self._books.account
        if breaker is None:
            self._early.append(command)
        if command.final and not self.end_reason:
            row["end_reason"] = self._books.number(reason)
        if command.action in ("flatten", "protect"):
            flatten = command.action == "flatten"
            return self._books.react(Told(records.STOPPED, amount=flatten, reason=self._books.number(reason)))
        if command.action == "pause":
            row["paused"] = self._books.number(reason)
            return []
        if command.action == "resume":
            row["paused"] = NONE
            for symbol_state in self.symbol_states.values():
                symbol_state.monitor.halt_reason = ""
        if breaker is None:
            return []
        breaker.reason = reason
        fact, amount = _HOLDS[command.action]
        return self._books.react(Told(records.BREAKER_TOLD, code=fact, amount=amount))


_HOLDS = {
    "resume": (risk.RESUME, 0),
    "reduce": (risk.HOLD, risk.ACTIONS.index("block")),
    "halt": (risk.HOLD, risk.CANCEL),
}
"""What the breaker is told of an operator's command."""


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
    StreamStatus: TradingCore._on_stream_status,
    BarResumePoint: TradingCore._on_bar_resume_point,
    ResumeState: TradingCore._on_resume_state,
    EngineRestarted: TradingCore._on_restart,
    Filters: TradingCore._on_filters,
    Trouble: TradingCore._on_trouble,
}
