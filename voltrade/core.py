"""TradingCore: events in, commands and notes out.

This is the only place where bars, signals, risk, orders and the account meet; the rules themselves are in the modules
below it. All of it is plain synchronous code without I/O, clock, randomness or threads: the same events give the same
outputs, bit for bit, however the trades are cut into blocks. Replay and every session run it, and a backtest with
`path="events"`; a compiled one runs `on_signal` and `core_rules` in a loop of its own (`research.loop`).

A signal passes the gates in the order of `GATES`, top to bottom; the first that refuses gives the refusal its code.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from voltrade import risk, wallet_check
from voltrade.account import Account, Position
from voltrade.bar_pipeline import BarPipeline
from voltrade.compiled import Rows, uncompiled
from voltrade.config import Config, milliseconds
from voltrade.errors import ConfigError
from voltrade.model import (
    NEVER,
    USER_STREAM_UP,
    AccountSummary,
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
)
from voltrade.oms import OrderMonitor
from voltrade.orders import core_rules, records
from voltrade.orders.account_books import AccountBooks
from voltrade.orders.order_states import ACCOUNT_MISMATCH, NONE, WALLET_DIFFERS
from voltrade.orders.snapshot_check import setting_problems
from voltrade.risk import CircuitBreaker
from voltrade.saved_account import account_state, restore_account
from voltrade.signal_engine import SignalEngine, refuse_other_overrides
from voltrade.symbol_state import HOLDS, SymbolState, abandoned, expected_range, rule_alerts, switch_rules
from voltrade.wallet_check import WalletCheck

GATES: tuple[risk.Gate, ...] = (
    risk.WARMING_UP,
    risk.NOT_LAST_BAR,
    risk.BAR_TAINTED,
    risk.DAY_END_BAR,
    risk.PAUSED,
    risk.ON_HOLD,
    risk.DRAWDOWN,
    risk.DAILY_LOSS,
    risk.LOSING_STREAK,
    risk.TRADES_PER_DAY,
    risk.NOT_RECONCILED,
    risk.SYMBOL_CHANGED,
    risk.LINK_DOWN,
    risk.STALE_PRICE,
    risk.OFF_MARK,
    risk.UNKNOWN_ORDER,
    risk.IN_POSITION,
    risk.COOLDOWN,
    risk.STOP_TOO_TIGHT,
    risk.LIQUIDATION_DISTANCE,
    risk.SIZE_TOO_SMALL,
    risk.MAX_NOTIONAL,
    risk.DAILY_BUDGET,
)
"""Every pre-trade check, in the order in which a signal passes them."""

on_signal = core_rules.make_signal_handler(GATES)
"""Closes the open position on an opposite signal, then checks the gates and sends the entry.

Sessions of every mode and backtests run this compiled function.
"""


def decide(accounts: Rows, symbols: Rows, index: int, signals: Rows) -> None:
    """Call `on_signal` for one signal of the symbol with this index."""
    on_signal(accounts[0], symbols[index], signals[0])


class TradingCore:
    """One account's trading logic.

    Args:
        config: validated settings.
        instrument: the symbol's filters as the exchange states them.
        epoch: text that makes this session's client order ids unique.
        engine: the `SignalEngine`; a custom rule is a subclass of it.
        others: further symbols, traded by the built-in rule under the same settings.

    Attributes:
        is_abandoned: whether an operator has ended the session although the exchange can't be reached.

    Raises:
        ConfigError: the settings are impossible under a symbol's filters, or name a rule file and `engine` isn't given;
            or it overrides methods that it must not.
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
        """Operators' commands from before the first snapshot."""
        if engine is None and config.session.rule:
            raise ConfigError(f"rule: the SignalEngine of {config.session.rule} must be given with it")
        self._books = AccountBooks(1 + len(others), decide)
        self._answers: dict[int, int] = {}
        self._wallet = WalletCheck()
        self._signal = np.zeros(1, records.SIGNAL)
        self.is_abandoned = False
        row = self._books.account
        core_rules.set_gates(row, GATES)
        row["flatten_at_end"] = config.session.on_duration_end == "flatten"
        self.symbol_states: dict[str, SymbolState] = {}
        for index, traded in enumerate((instrument, *others)):
            config.check_against(traded)
            rule = engine if engine is not None and not index else SignalEngine(config.signals, traded)
            refuse_other_overrides(type(rule))
            self.symbol_states[traded.symbol] = self._open_symbol(traded, rule, epoch, index)

    def _open_symbol(self, instrument: Instrument, engine: SignalEngine, epoch: str, index: int) -> SymbolState:
        config = self.config
        monitor = OrderMonitor(instrument, config.exits, config.execution, epoch, self._books, index, GATES)
        symbol_state = SymbolState(instrument, BarPipeline(instrument, config.bars, engine), engine, monitor, index)
        symbol_state.expected_range = expected_range(config.bars)
        row = self._books.symbols[index]
        row["limits"] = risk.limits_from_settings(config, instrument)
        row["gate_inputs"]["market_stream_up"], row["gate_inputs"]["symbol_changed"] = True, symbol_state.is_blocked
        return symbol_state

    def take_rules(self) -> None:
        """Take the compiled rules, also what a signal needs, so that no entry waits for it; see `plain_start`."""
        self._books.take_rules()
        for symbol_state in self.symbol_states.values():
            symbol_state.pipeline.take_rules()

    @property
    def is_plain(self) -> bool:
        """Whether rules are plain Python until they are compiled."""
        return self._books.is_plain or any(each.pipeline.is_plain for each in self.symbol_states.values())

    # --- account and session ---------------------------------------------------------------------------------------

    @property
    def account(self) -> Account | None:
        """The account's books as they are now; None before the first snapshot."""
        row = self._books.account
        if not row["is_open"]:
            return None
        account = Account(int(row["wallet"]), int(row["realised"]), int(row["fees"]))
        account.funding, account.transfers = int(row["funding"]), int(row["transfers"])
        account.adjustments = int(row["adjustments"])
        for symbol, symbol_state in self.symbol_states.items():
            row = self._books.symbols[symbol_state.index]
            account.positions[symbol] = Position(symbol_state.instrument, int(row["quantity"]), int(row["cost"]))
        return account

    @property
    def breaker(self) -> CircuitBreaker | None:
        """The account's circuit breaker; None before the first snapshot."""
        return self._books.breaker

    @property
    def end_reason(self) -> str:
        """Why the session ends or has ended; empty while it doesn't."""
        return self._books.reason_text(int(self._books.account["end_reason"]))

    @property
    def paused(self) -> str:
        """Why entries are paused; empty where they aren't."""
        return self._books.reason_text(int(self._books.account["paused"]))

    # --- events in, outputs out ------------------------------------------------------------------------------------

    def handle(self, event: Event) -> tuple[int, list[Output]]:
        """Handle an event; return how much of it was consumed, and the outputs.

        A block of trades is consumed up to and including the first trade that leads to an output, and never past
        `next_due`: execute the commands, deliver the timer that is due, then pass the rest. Any other event is consumed
        whole, which counts as 1.
        """
        try:
            if isinstance(event, Trades):
                return self._on_trades(event)
            self._advance_time(event.time)
            return 1, _HANDLERS[type(event)](self, event)
        finally:
            self._answers.clear()

    def _ask(self, question: int) -> int:
        """Return the books' answer to a question; it is cached until the next event."""
        if question not in self._answers:
            self._answers[question] = self._books.ask(question)
        return self._answers[question]

    def _advance_time(self, time: int) -> None:
        self.time = max(self.time, time)
        self._books.account["now"] = self.time

    @property
    def next_due(self) -> int:
        """When the core needs a `Timer`, ms; NEVER where it waits for nothing.

        Always later than the last `Timer`, so that a loop that delivers timers makes progress.
        """
        return self._ask(records.NEXT_DUE)

    @property
    def last_trade_id(self) -> int:
        """Id of the newest trade that was handled, -1 before the first."""
        return max(symbol_state.pipeline.last_trade_id for symbol_state in self.symbol_states.values())

    @property
    def finished(self) -> bool:
        """Whether the session has ended and its positions are closed, or kept with a confirmed stop, or abandoned."""
        is_confirmed = all(each.monitor.orders_confirmed for each in self.symbol_states.values())
        return self.is_abandoned or (is_confirmed and bool(self._ask(records.IS_FINISHED)))

    def end_of_tape(self, time: int) -> Operator:
        """Return the command that ends a session at the end of its tape."""
        policy = self.config.session.on_duration_end
        return Operator(time, "flatten" if policy == "flatten" else "protect", "TAPE_END", final=True)

    @staticmethod
    def bar_row(symbol_state: SymbolState, number: int) -> dict[str, Any]:
        """Return a closed bar and its decision as plain values, for the journal."""
        bar, decision = symbol_state.pipeline.bars[number], symbol_state.pipeline.decisions[number]
        return {
            "index": number,
            **dict(zip(bar.dtype.names, bar.item(), strict=True)),
            "decision": dict(zip(decision.dtype.names, decision.item(), strict=True)),
        }

    # --- the state for the next run --------------------------------------------------------------------------------

    def state(self) -> dict[str, Any] | None:
        """Return what the account's next run needs as plain JSON values; None before the first snapshot."""
        return account_state(self._books, self.symbol_states, self._wallet)

    def _on_resume_state(self, event: ResumeState) -> list[Output]:
        states, settings = self.symbol_states, self.config.risk
        unread = restore_account(self._books, states, self._wallet, settings, event.state, self.time)
        return self._on_operator(Operator(self.time, "caretake", unread)) if unread else []

    def _on_bar_resume_point(self, point: BarResumePoint) -> list[Output]:
        self.symbol_states[point.symbol].pipeline.continue_from(point)
        return []

    # --- trades, bars, signals -------------------------------------------------------------------------------------

    def _on_trades(self, trades: Trades) -> tuple[int, list[Output]]:
        symbol_state = self.symbol_states[trades.symbol]
        row, before = self._books.symbols[symbol_state.index], symbol_state.pipeline.count
        was_off = symbol_state.pipeline.rule_off
        consumed = symbol_state.pipeline.process(trades, 0, self.next_due, self._wake_at_bar(symbol_state))
        self._advance_time(symbol_state.pipeline.last_time)
        symbol_state.write_bars(row)
        if symbol_state.pipeline.count == before:
            return consumed, []
        return consumed, rule_alerts(symbol_state, was_off, self.time) + self._on_bars(symbol_state, before)

    def _wake_at_bar(self, symbol_state: SymbolState) -> int:
        """Return the number of bars at which `max_holding_bars` is over."""
        return self._books.ask(records.WAKE_AT_BAR, symbol_state.index)

    def _on_bars(self, symbol_state: SymbolState, before: int) -> list[Output]:
        outputs: list[Output] = []
        for bar in np.flatnonzero(symbol_state.pipeline.decisions["signal"][before:]) + before:
            outputs += self._on_signal(symbol_state, int(bar))
        return outputs + self._books.react(records.BooksEvent(records.BARS_CLOSED, symbol_state.index))

    def _on_signal(self, symbol_state: SymbolState, bar: int) -> list[Output]:
        """Close an opposite position, then check the entry against the gates; see `core_rules`."""
        row, decision = symbol_state.pipeline.bars[bar], symbol_state.pipeline.decisions[bar]
        facts = int(decision["signal"]), bool(decision["ready"]), float(decision["atr"])
        settings = self._books.column("settings")[symbol_state.index]
        uncompiled(core_rules.fill_signal)(
            self._signal[0], bar, row, *facts, bar == symbol_state.pipeline.count - 1, settings
        )
        return self._books.on_signal(symbol_state.index, self._signal)

    # --- orders and the account ------------------------------------------------------------------------------------

    def _on_order(self, update: OrderUpdate) -> list[Output]:
        self._wallet.note_fills([update])
        return self.symbol_states[update.symbol].monitor.on_order(update)

    def _on_algo(self, update: AlgoUpdate) -> list[Output]:
        return self.symbol_states[update.symbol].monitor.on_algo(update)

    def _on_reply(self, reply: Reply) -> list[Output]:
        return self.symbol_states[reply.symbol].monitor.on_reply(reply)

    def _on_mark(self, mark: MarkPrice) -> list[Output]:
        symbol_state = self.symbol_states[mark.symbol]
        event = records.BooksEvent(records.MARKED, symbol_state.index, amount=mark.price_e8)
        outputs = self._books.react(event._replace(code=int(mark.is_last_price)))
        return [*outputs, *symbol_state.watch_bars(self.time)]

    def _on_account(self, update: AccountUpdate) -> list[Output]:
        """Book funding and transfers, which only the exchange knows; fills are booked by their order updates."""
        if not self._books.account["is_open"] or update.reason == "ORDER" or not update.change:
            return []
        if self._wallet.is_told_again(update):
            return []
        if update.reason == "FUNDING_FEE" and update.symbol in ("", *self.symbol_states):
            self._wallet.funding += update.change
            return wallet_check.book_funding(self._books, self.symbol_states, update.change, update.symbol, update.time)
        self._wallet.transfers += update.change
        return wallet_check.book_transfer(self._books, update.change, update.reason)

    def _on_snapshot(self, snapshot: Snapshot) -> list[Output]:
        symbol_state, is_first = self.symbol_states[snapshot.symbol], self.breaker is None
        self._wallet.note_fills(snapshot.fills)
        outputs = self._open_account(symbol_state, snapshot) + symbol_state.monitor.on_snapshot(snapshot)
        if is_first:
            outputs += wallet_check.count_once(self._books, snapshot.wallet)
        problems, wallet = setting_problems(self.config.risk, snapshot), int(self._books.account["wallet"])
        # An order that is looked up may have a fill that our books lack, so the account is read again first.
        is_asking = any(isinstance(output, LookupOrder) for output in outputs)
        if not is_asking and symbol_state.monitor.books_agree:
            outputs += self._explain_wallet(symbol_state, snapshot)
        must_wait = bool(problems) or (wallet != snapshot.wallet and is_asking and symbol_state.monitor.books_agree)
        if must_wait:
            reason = ACCOUNT_MISMATCH if problems else WALLET_DIFFERS
            symbol_state.monitor.on_disagreement(self.time, symbol_state.problem_count, reason)
        symbol_state.problem_count = symbol_state.problem_count + 1 if must_wait else 0
        if problems != symbol_state.problems:
            outputs += [Alert(self.time, "ACCOUNT_MISMATCH", problem) for problem in problems]
            symbol_state.problems = problems
        return outputs

    def _on_summary(self, summary: AccountSummary) -> list[Output]:
        """Compare the account with our books; request a snapshot if it differs, and not as the last has shown."""
        symbol_state, wallet = self.symbol_states[summary.symbol], int(self._books.account["wallet"])
        has_our_settings = setting_problems(self.config.risk, summary) == symbol_state.problems
        has_our_settings = has_our_settings and summary.max_notional == symbol_state.max_notional
        if summary.wallet == wallet and has_our_settings and symbol_state.monitor.agrees(summary):
            self._wallet.note_agreement(summary.time, wallet)
            return []
        if has_our_settings and symbol_state.monitor.has_shown(summary):
            return []
        return [TakeSnapshot(self.time, summary.symbol, "ACCOUNT_DIFFERS")]

    def _explain_wallet(self, symbol_state: SymbolState, snapshot: Snapshot) -> list[Output]:
        """Book the difference between the exchange's wallet and ours as funding, transfers and an adjustment.

        While the income history doesn't explain it, the account is read again first, a limited number of times.
        """
        check, ours = self._wallet, int(self._books.account["wallet"])
        outputs: list[Output] = []
        if snapshot.wallet != ours:
            shares = check.shares(snapshot, ours, self.symbol_states)
            if shares is None and (pause := check.pause(self.time)) is not None:
                symbol_state.monitor.schedule_account_read(self.time + pause, WALLET_DIFFERS)
                return []
            outputs = wallet_check.book_shares(self._books, self.symbol_states, shares, snapshot.wallet - ours)
        check.note_agreement(snapshot.time, snapshot.wallet)
        return outputs

    @property
    def income_since(self) -> int:
        """From when on a snapshot needs the income history, ms; 0 where it doesn't."""
        return self._wallet.since

    def _open_account(self, symbol_state: SymbolState, snapshot: Snapshot) -> list[Output]:
        """Apply a snapshot's fee rate and leverage bracket; of the first also the balance, unless a saved state has it.

        At the first `duration_s` begins, and operators' commands from before it are carried out, in their order.
        """
        books, session = self._books, self.config.session
        row = books.account
        if books.breaker is None:
            row["wallet"], row["is_open"] = snapshot.wallet, True
            self._wallet.note_agreement(snapshot.time, snapshot.wallet)
            books.breaker = CircuitBreaker(self.config.risk, snapshot.time, snapshot.wallet, books.breaker_rows)
        told = symbol_state.note_bracket(snapshot, self.config.risk)
        books.symbols[symbol_state.index]["limits"] = symbol_state.current_limits(self.config, snapshot.taker_fee_e8)
        if session.duration_s and session.on_duration_end != "carry_on" and row["end_at"] == NEVER:
            row["end_at"] = snapshot.time + milliseconds(session.duration_s)
        early, self._early = self._early, []
        return told + [output for command in early for output in self._on_operator(command)]

    # --- timers, streams, operators --------------------------------------------------------------------------------

    def _on_timer(self, timer: Timer) -> list[Output]:
        return self._books.react(records.BooksEvent(records.TIMER_DUE))

    def _on_stream_status(self, status: StreamStatus) -> list[Output]:
        outputs: list[Output] = []
        for symbol_state in self.symbol_states.values():
            inputs = self._books.symbols[symbol_state.index]["gate_inputs"]
            if status.stream == "market":
                inputs["market_stream_up"] = status.up
                continue
            inputs["user_stream_up"] = status.up
            symbol_state.monitor.reconciled = False
            if status.up:
                outputs.append(TakeSnapshot(self.time, symbol_state.instrument.symbol, USER_STREAM_UP))
        return outputs

    def _on_restart(self, restart: EngineRestarted) -> list[Output]:
        outputs: list[Output] = []
        for symbol_state in self.symbol_states.values():
            self._books.symbols[symbol_state.index]["gate_inputs"]["user_stream_up"] = False
            outputs += symbol_state.monitor.on_restart(self.time)
        return outputs

    def _on_filters(self, filters: Filters) -> list[Output]:
        symbol_state = self.symbol_states[filters.symbol]
        return symbol_state.apply_filters(filters, self._books.symbols[symbol_state.index])

    def _on_trouble(self, trouble: Trouble) -> list[Output]:
        return [Alert(trouble.time, trouble.code, trouble.text)]

    def _on_gap(self, gap: FeedGap) -> list[Output]:
        missing = gap.last_id - gap.first_id + 1 - gap.filled
        if not missing:
            return []
        text = f"trades {gap.first_id}-{gap.last_id}: {missing} missing; the bar is tainted"
        return [Alert(self.time, "FEED_GAP", text)]

    def _on_operator(self, command: Operator) -> list[Output]:
        """Carry out an operator's command; before the first snapshot as far as possible, and again after it."""
        breaker, reason, row = self.breaker, command.reason or "OPERATOR", self._books.account
        if breaker is None:
            self._early.append(command)
        if command.final and not self.end_reason:
            row["end_reason"] = self._books.reason_number(reason)
        if command.action in ("flatten", "protect"):
            flatten = command.action == "flatten"
            return self._books.react(
                records.BooksEvent(records.ENTRIES_STOPPED, amount=flatten, reason=self._books.reason_number(reason))
            )
        if command.action == "abandon":
            self.is_abandoned = True
            return abandoned(self.symbol_states.values(), reason, self.time)
        if command.action == "pause":
            row["paused"] = self._books.reason_number(reason)
            return []
        if command.action == "acknowledge":
            return []
        outputs = switch_rules(self.symbol_states.values(), command)
        if command.action == "resume":
            if not self.end_reason:  # a session that ends sends no more entries
                row["paused"], row["stopped_at"] = NONE, 0
            for symbol_state in self.symbol_states.values():
                symbol_state.monitor.halt_reason = ""
        if breaker is None:
            return outputs
        breaker.reason = reason
        fact, amount = HOLDS[command.action]
        return outputs + self._books.react(records.BooksEvent(records.BREAKER_UPDATED, code=fact, amount=amount))


_HANDLERS: dict[type, Callable[[TradingCore, Any], list[Output]]] = {
    MarkPrice: TradingCore._on_mark,
    FeedGap: TradingCore._on_gap,
    OrderUpdate: TradingCore._on_order,
    AlgoUpdate: TradingCore._on_algo,
    AccountUpdate: TradingCore._on_account,
    Reply: TradingCore._on_reply,
    Snapshot: TradingCore._on_snapshot,
    AccountSummary: TradingCore._on_summary,
    Timer: TradingCore._on_timer,
    Operator: TradingCore._on_operator,
    StreamStatus: TradingCore._on_stream_status,
    BarResumePoint: TradingCore._on_bar_resume_point,
    ResumeState: TradingCore._on_resume_state,
    EngineRestarted: TradingCore._on_restart,
    Filters: TradingCore._on_filters,
    Trouble: TradingCore._on_trouble,
}
