"""Frames, statistics and tables of a run, computed from its facts and from nothing else.

The same functions serve a backtest's facts in memory and a journal on disk, of a run that goes on, ended or was killed.
Here integers become floats in natural units (coins, quote asset, UTC timestamps) for people to look at; nothing goes
back from here into trading.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from fractions import Fraction
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
import pandas as pd
from pydantic import TypeAdapter

from voltrade import journal, measures
from voltrade.compiled import Rows
from voltrade.config import Config, RiskSettings
from voltrade.errors import JournalError
from voltrade.model import (
    BAR,
    EQUITY,
    MONEY,
    NEVER,
    Alert,
    AlgoUpdate,
    BreakerChange,
    CancelOrder,
    CloseReason,
    EquityPoint,
    FeedGap,
    Instrument,
    Int64s,
    Operator,
    OrderIntent,
    OrderUpdate,
    Outcome,
    Purpose,
    Refusal,
    Reply,
    RoundTrip,
    Side,
    Snapshot,
)
from voltrade.oms import DONE, STATUS_ALIASES
from voltrade.risk import COUNTED, CircuitBreaker

_TIME = "datetime64[ms, UTC]"

_UNSHOWN = frozenset(
    {"Trades", "MarkPrice", "Timer", "AccountUpdate", "Link", "BarPhase", "LookupOrder", "TakeSnapshot"}
)
"""Kinds of journal rows that no frame shows; they needn't be decoded."""

# An order that was taken for not placed may turn out to exist; one that ended stays ended.
_ENDED = DONE - {"NOT_PLACED"}

_BARS = {
    "bar": "int64",
    "open_time": _TIME,
    "duration_s": "float64",
    "day": "int64",
    "number": "int64",
    "open": "float64",
    "high": "float64",
    "low": "float64",
    "close": "float64",
    "volume": "float64",
    "taker_buy_volume": "float64",
    "notional": "float64",
    "bar_vwap": "float64",
    "trade_count": "int64",
    "first_trade_id": "int64",
    "last_trade_id": "int64",
    "close_reason": "str",
    "tainted": "bool",
}
_ORDERS = {
    "client_order_id": "str",
    "order_id": "int64",
    "round_trip": "int64",
    "bar": "int64",
    "purpose": "str",
    "side": "str",
    "type": "str",
    "quantity": "float64",
    "price": "float64",
    "trigger_price": "float64",
    "reduce_only": "bool",
    "status": "str",
    "filled": "float64",
    "average_price": "float64",
    "reference_price": "float64",
    "slippage": "float64",
    "fees": "float64",
    "code": "int64",
    "text": "str",
    "reason": "str",
    "answered": _TIME,
    "updated": _TIME,
}
_FILLS = {
    "trade_id": "int64",
    "client_order_id": "str",
    "round_trip": "int64",
    "purpose": "str",
    "side": "str",
    "price": "float64",
    "quantity": "float64",
    "notional": "float64",
    "fee": "float64",
    "fee_asset": "str",
    "realised": "float64",
    "is_maker": "bool",
}
_ROUND_TRIPS = {
    "id": "int64",
    "side": "str",
    "opened": _TIME,
    "closed": _TIME,
    "minutes": "float64",
    "bar": "int64",
    "quantity": "float64",
    "entry_price": "float64",
    "exit_price": "float64",
    "stop_price": "float64",
    "take_profit_price": "float64",
    "realised": "float64",
    "fees": "float64",
    "funding": "float64",
    "net": "float64",
    "r_multiple": "float64",
    "exit_reason": "str",
}
_EQUITY = {
    "wallet": "float64",
    "unrealised": "float64",
    "equity": "float64",
    "drawdown": "float64",
    "position": "float64",
    "valued_at": "str",
}
_REFUSALS = {"bar": "int64", "side": "str", "code": "str", "detail": "str"}
_BREAKER = {
    "rule": "str",
    "mode": "str",
    "action": "str",
    "measure": "float64",
    "limit": "float64",
    "resume_at": _TIME,
}
_ALERTS = {"code": "str", "text": "str"}
_GAPS = {"first_id": "int64", "last_id": "int64", "missing": "int64", "filled": "int64"}
_OPERATOR = {"action": "str", "reason": "str", "final": "bool"}
WITHOUT_A_RULE = frozenset(
    {"bar", "close", "ready", "signal", "outcome", "vwap", "ema_fast", "ema_slow", "rsi", "atr", "ema_cross"}
    | {"bollinger_upper", "bollinger_middle", "bollinger_lower", "bollinger_breakout"}
    | {"rsi_long", "rsi_short", "vwap_long", "vwap_short"}
)
"""Columns of the decisions that every run has; the others are of a rule of one's own."""

_DECISIONS = {
    "bar": "int64",
    "close": "float64",
    "ready": "bool",
    "signal": "str",
    "outcome": "str",
}


@dataclass(frozen=True, slots=True)
class Frames:
    """What happened in a run, as pandas frames with a UTC DatetimeIndex named `time`.

    Prices are in the quote asset for one coin, quantities in coins, money in the quote asset; floats, each the nearest
    to the exact decimal. Several rows may share a time.
    """

    instrument: Instrument
    bars: pd.DataFrame
    """One row a closed bar, at its close: `bar` counts the bars of the run, `number` those since the anchor. `bar_vwap`
    is the bar's own notional / volume; `close_reason` is THRESHOLD or DAY_END."""
    decisions: pd.DataFrame
    """One row a bar: `ready`, `signal` (BUY, SELL or empty), `outcome` (what became of the signal), then every
    indicator and condition of the verdict under its own name."""
    orders: pd.DataFrame
    """One row a client order id, at the decision. `reference_price` is the deciding bar's close, or the trigger price;
    `slippage` is what the fills cost against it (money, positive is a cost, NaN where unknown)."""
    fills: pd.DataFrame
    """One row a trade id, at the fill. `realised` is money before the fill's own fee."""
    round_trips: pd.DataFrame
    """One row a closed round trip, at its close. `net` = realised - fees + funding. `r_multiple` is net over what the
    stop would have cost from the entry price."""
    equity: pd.DataFrame
    """One row a valuation: `equity` = wallet + unrealised, `drawdown` = equity - its highest so far (at most 0),
    `position` in signed coins, `valued_at` mark or last."""
    refusals: pd.DataFrame
    """One row a signal that a gate refused, with the gate's `code`."""
    breaker: pd.DataFrame
    """One row a change of the circuit breaker. `measure` and `limit` are money or counts, as the rule is."""
    alerts: pd.DataFrame
    """One row a thing a person should know."""
    gaps: pd.DataFrame
    """One row a jump in the trade ids: `missing` trades, of which `filled` came by REST."""
    operator: pd.DataFrame
    """One row a command that a person or a stop policy gave, with its reason; `final` ones end the session."""


def frames(instrument: Instrument, bar_rows: Iterable[Mapping[str, Any]], facts: Iterable[object]) -> Frames:
    """Build the frames of a run.

    Args:
        instrument: The symbol's tick, step and names.
        bar_rows: The bars in order, each with the fields of `model.VolumeBar` as integers and a `verdict` mapping.
        facts: The model facts in the order in which they happened; kinds that no frame shows are passed over.
    """
    collector = Collector(instrument)
    for row in bar_rows:
        collector.add_bar(row)
    for fact in facts:
        collector.add(fact)
    return collector.frames()


def research_frames(
    instrument: Instrument, bars: Rows, verdicts: Rows, first_bar: int, facts: Iterable[object], equity: Rows
) -> Frames:
    """Build the frames of a session that ran in memory, from its arrays.

    Args:
        bars: rows of `model.BAR`; those before `first_bar` were the warm-up.
        verdicts: of each bar, rows of the engine's `verdict_dtype`.
        facts: intents, answers, fills and notes; valuations among them are left out.
        equity: rows of EQUITY.
    """
    collector = Collector(instrument)
    for fact in facts:
        if not isinstance(fact, EquityPoint):
            collector.add(fact)
    rows, said = bars[first_bar:], verdicts[first_bar:]
    columns = {name: rows[name] for name in BAR.names or ()}
    verdict = {name: said[name] for name in verdicts.dtype.names or ()}
    return collector.frames_of(columns, verdict, first_bar, bars["close"], equity)


def equity_rows(points: Sequence[EquityPoint]) -> Rows:
    """Write valuations as rows of EQUITY."""
    rows = [(point.time, point.wallet, point.unrealised, point.position, point.valued_at == "mark") for point in points]
    return np.array(rows, EQUITY)


@dataclass(slots=True)
class _Order:
    """What is known of one order so far; integers as in the facts."""

    client_order_id: str
    time: int
    side: Side
    order_type: str
    quantity: int
    intent: OrderIntent | None = None
    price: int = 0
    trigger_price: int = 0
    reduce_only: bool = False
    order_id: int = 0
    status: str = "PENDING_SUBMIT"
    filled: int = 0
    code: int = 0
    text: str = ""
    answered: int = 0
    updated: int = 0

    @property
    def purpose(self) -> str:
        return self.intent.purpose.name if self.intent else "FOREIGN"

    @property
    def round_trip(self) -> int:
        return self.intent.round_trip if self.intent else -1

    @property
    def bar_number(self) -> int:
        return self.intent.bar_number if self.intent else -1


_Note = TypeVar("_Note")


class Collector:
    """Gathers the facts of a run as they come, and makes frames of them at any time."""

    def __init__(self, instrument: Instrument) -> None:
        self.instrument = instrument
        self._bars: list[Mapping[str, Any]] = []
        self._orders: dict[str, _Order] = {}
        self._by_order_id: dict[int, str] = {}
        self._fills: dict[int, tuple[_Order, OrderUpdate]] = {}
        self._notes: dict[type, list[Any]] = {
            kind: [] for kind in (RoundTrip, EquityPoint, Refusal, BreakerChange, Alert, FeedGap, Operator)
        }

    @property
    def bar_count(self) -> int:
        return len(self._bars)

    def notes(self, kind: type[_Note]) -> list[_Note]:
        """The notes of one kind so far: round trips, refusals, alerts and the like."""
        return self._notes[kind]

    def add_bar(self, row: Mapping[str, Any]) -> None:
        """Add a closed bar: the fields of `model.VolumeBar` as integers, and its `verdict`."""
        self._bars.append(row)

    def add(self, fact: object) -> None:
        """Add a model fact; kinds that no frame shows are passed over."""
        match fact:
            case OrderIntent():
                self._add_intent(fact)
            case OrderUpdate():
                self._add_order_update(fact)
            case AlgoUpdate():
                self._add_algo_update(fact)
            case Reply():
                self._add_reply(fact)
            case CancelOrder():
                self._add_cancel(fact)
            case Snapshot():
                for order in (*fact.orders, *fact.fills):
                    self._add_order_update(order)
                for algo_order in fact.algo_orders:
                    self._add_algo_update(algo_order)
            case _:
                notes = self._notes.get(type(fact))
                if notes is not None:
                    notes.append(fact)

    def _add_intent(self, intent: OrderIntent) -> None:
        request = intent.order
        self._orders[request.client_order_id] = _Order(
            client_order_id=request.client_order_id,
            time=intent.time,
            side=request.side,
            order_type=request.order_type,
            quantity=request.quantity,
            intent=intent,
            price=request.price,
            trigger_price=request.trigger_price,
            reduce_only=request.reduce_only or request.close_position,
        )

    def _add_order_update(self, update: OrderUpdate) -> None:
        # A triggered conditional order goes on as an ordinary one, usually under the same client id.
        name = self._by_order_id.get(update.order_id) or update.client_order_id or f"#{update.order_id}"
        order = self._orders.get(name)
        if order is None:
            order = self._orders[name] = _Order(
                name, update.time, update.side, update.order_type, update.quantity, price=update.price
            )
        order.filled = max(order.filled, update.filled)
        order.updated = max(order.updated, update.time)
        if update.order_id:
            order.order_id = update.order_id
            self._by_order_id[update.order_id] = name
        if update.status and (order.status == "FINISHED" or order.status not in _ENDED):
            order.status = STATUS_ALIASES.get(update.status, update.status)
        if update.trade_id:
            self._fills.setdefault(update.trade_id, (order, update))

    def _add_algo_update(self, update: AlgoUpdate) -> None:
        name = update.client_order_id
        order = self._orders.get(name)
        if order is None:
            order = self._orders[name] = _Order(
                name,
                update.time,
                update.side,
                update.order_type,
                update.quantity,
                trigger_price=update.trigger_price,
                reduce_only=update.reduce_only or update.close_position,
            )
        order.updated = max(order.updated, update.time)
        order.filled = max(order.filled, update.filled)
        if update.order_id:
            self._by_order_id[update.order_id] = name
        if order.status not in _ENDED and not order.order_id:
            order.status = update.status
            order.text = update.reason or order.text

    def _add_reply(self, reply: Reply) -> None:
        order = self._orders.get(reply.client_order_id)
        if order is not None and reply.action == "lookup" and reply.code == -2013 and order.status == "UNKNOWN":
            order.status, order.code, order.text = "NOT_PLACED", reply.code, reply.text
        if order is not None and reply.action == "submit":
            order.answered = reply.time
            if reply.outcome is Outcome.REFUSED:
                order.status, order.code, order.text = "REJECTED", reply.code, reply.text
            elif reply.outcome is Outcome.UNKNOWN and order.status == "PENDING_SUBMIT":
                order.status, order.text = "UNKNOWN", reply.text
        if reply.order is not None:
            self._add_order_update(reply.order)
        if reply.algo_order is not None:
            self._add_algo_update(reply.algo_order)

    def _add_cancel(self, command: CancelOrder) -> None:
        order = self._orders.get(command.client_order_id)
        if order is not None and not order.text:
            order.text = command.reason

    def frames(self, last_bars: int | None = None) -> Frames:
        """Make the frames of everything added so far, or with only the last bars and decisions."""
        first = 0 if last_bars is None else max(0, len(self._bars) - last_bars)
        rows = self._bars[first:]
        columns = {name: [row[name] for row in rows] for name in BAR.names or ()}
        closes = [row["close"] for row in self._bars]
        return self.frames_of(columns, _verdict_columns(rows), first, closes, equity_rows(self._notes[EquityPoint]))

    def frames_of(
        self,
        columns: Mapping[str, Any],
        verdict: Mapping[str, Any],
        first: int,
        closes: Sequence[int] | Int64s,
        equity: Rows,
    ) -> Frames:
        """Make the frames of everything added so far, of these bars and of these valuations.

        Args:
            columns: of the bars that are shown, by the fields of BAR.
            verdict: columns of their verdicts.
            first: number of the first of them.
            closes: of all bars, in ticks.
        """
        units = _Units(self.instrument)
        bars = _bars_frame(units, columns, first)
        fills = self._fills_frame(units)
        orders = self._orders_frame(units, closes)
        refusals = self._refusals_frame()
        return Frames(
            instrument=self.instrument,
            bars=bars,
            decisions=_decisions_frame(bars, verdict, orders, refusals),
            orders=orders,
            fills=fills,
            round_trips=_round_trips_frame(units, self._notes[RoundTrip]),
            equity=_equity_frame(units, equity),
            refusals=refusals,
            breaker=_breaker_frame(self._notes[BreakerChange]),
            alerts=_frame(_ALERTS, [(n.time, n.code, n.text) for n in self._notes[Alert]]),
            gaps=_frame(
                _GAPS,
                [(n.time, n.first_id, n.last_id, n.last_id - n.first_id + 1, n.filled) for n in self._notes[FeedGap]],
            ),
            operator=_frame(_OPERATOR, [(n.time, n.action, n.reason, n.final) for n in self._notes[Operator]]),
        )

    def _refusals_frame(self) -> pd.DataFrame:
        rows = [(n.time, n.bar_number, n.side.name, n.code, n.detail) for n in self._notes[Refusal]]
        return _frame(_REFUSALS, rows)

    def _fills_frame(self, units: _Units) -> pd.DataFrame:
        rows = []
        for order, fill in self._fills.values():
            rows.append(
                (
                    fill.time,
                    fill.trade_id,
                    order.client_order_id,
                    order.round_trip,
                    order.purpose,
                    fill.side.name,
                    units.price(fill.last_price),
                    units.quantity(fill.last_quantity),
                    units.notional(fill.last_price * fill.last_quantity),
                    fill.fee / MONEY,
                    fill.fee_asset,
                    fill.realised / MONEY,
                    fill.is_maker,
                )
            )
        return _frame(_FILLS, rows)

    def _orders_frame(self, units: _Units, closes: Sequence[int] | Int64s) -> pd.DataFrame:
        filled: dict[str, list[OrderUpdate]] = {}
        for order, fill in self._fills.values():
            filled.setdefault(order.client_order_id, []).append(fill)
        rows = []
        for order in self._orders.values():
            parts = filled.get(order.client_order_id, [])
            quantity = sum(part.last_quantity for part in parts)
            notional = sum(part.last_quantity * part.last_price for part in parts)
            is_known = 0 <= order.bar_number < len(closes)
            reference = order.trigger_price or (int(closes[order.bar_number]) if is_known else 0)
            cost = order.side * (notional - reference * quantity)
            rows.append(
                (
                    order.time,
                    order.client_order_id,
                    order.order_id,
                    order.round_trip,
                    order.bar_number,
                    order.purpose,
                    order.side.name,
                    str(order.order_type),
                    units.quantity(order.quantity),
                    units.price(order.price) if order.price else math.nan,
                    units.price(order.trigger_price) if order.trigger_price else math.nan,
                    order.reduce_only,
                    order.status,
                    units.quantity(order.filled),
                    units.price(Fraction(notional, quantity)) if quantity else math.nan,
                    units.price(reference) if reference else math.nan,
                    units.notional(cost) if reference and quantity else math.nan,
                    sum(part.fee for part in parts) / MONEY,
                    order.code,
                    order.text,
                    order.intent.reason if order.intent else "",
                    order.answered,
                    order.updated,
                )
            )
        return _frame(_ORDERS, rows)


# --- a run on disk ---------------------------------------------------------------------------------------------------


class RunReader:
    """Reads a run's journal as far as it is written, and on from there with every `poll`.

    Args:
        run_dir: The run's folder; its `journal.db` may still be missing, growing, ended or cut off by a kill.
    """

    def __init__(self, run_dir: Path | str) -> None:
        self.path = Path(run_dir) / "journal.db"
        self.start: dict[str, Any] = {}
        """Body of the journal's first row: settings, instrument, versions."""
        self.end: dict[str, Any] = {}
        """Body of its last row; empty while the run goes on, and where it was killed."""
        self.seq = 0
        """Number of rows read."""
        self.head = ""
        """Hash of the last row read, hex."""
        self.time = 0
        """Time of the last row read, ms UTC."""
        self._collector: Collector | None = None

    @property
    def collector(self) -> Collector:
        """What the rows read so far have told.

        Raises:
            JournalError: the journal's first row isn't there yet.
        """
        if self._collector is None:
            raise JournalError(f"{self.path}: must begin with a Start row, has {self.seq} rows")
        return self._collector

    def poll(self, until: int | None = None) -> int:
        """Read the rows that were committed since the last call, or those up to row `until`; return how many.

        Raises:
            JournalError: the file is no journal of ours, or its first row is not a Start.
        """
        if not self.path.exists():
            return 0
        before = self.seq
        for row in journal.read(self.path, after=self.seq):
            if until is not None and row.seq > until:
                break
            self._take(row)
            self.seq, self.head, self.time = row.seq, row.hash.hex(), row.time
        return self.seq - before

    def _take(self, row: journal.Row) -> None:
        if row.kind == "Start":
            self.start = journal.decode(row.kind, row.body)
            instrument = TypeAdapter(Instrument).validate_python(self.start["instrument"])
            self._collector = Collector(instrument)
        elif row.kind == "Bar":
            self.collector.add_bar(journal.decode(row.kind, row.body))
        elif row.kind == "End":
            self.end = journal.decode(row.kind, row.body)
        elif row.kind not in _UNSHOWN:
            self.collector.add(journal.decode(row.kind, row.body))

    def frames(self, last_bars: int | None = None) -> Frames:
        """Make the frames of what was read so far, or with only the last bars and decisions."""
        return self.collector.frames(last_bars)


def read_run(run_dir: Path | str) -> Frames:
    """Read the frames of a run that goes on, ended or was killed.

    Raises:
        JournalError: there is no journal of ours in the folder.
    """
    reader = RunReader(run_dir)
    reader.poll()
    return reader.frames()


def save_frames(run_dir: Path | str) -> list[Path]:
    """Write each frame of a run as `frames/NAME.parquet` into its folder, for other tools; return the files.

    Raises:
        JournalError: there is no journal of ours in the folder.
    """
    run, folder = read_run(run_dir), Path(run_dir) / "frames"
    folder.mkdir(mode=0o700, exist_ok=True)
    files = []
    for part in fields(run):
        frame = getattr(run, part.name)
        if isinstance(frame, pd.DataFrame):
            files.append(folder / f"{part.name}.parquet")
            frame.to_parquet(files[-1])
    return files


# --- frames ----------------------------------------------------------------------------------------------------------


class _Units:
    """Converts the integers of an instrument to the floats nearest to the exact decimals."""

    def __init__(self, instrument: Instrument) -> None:
        self._tick = Fraction(instrument.tick_size)
        self._step = Fraction(instrument.step_size)

    def price(self, ticks: int | Fraction) -> float:
        return float(ticks * self._tick)

    def quantity(self, lots: int) -> float:
        return float(lots * self._step)

    def notional(self, ticklots: int) -> float:
        return float(ticklots * self._tick * self._step)

    def prices(self, ticks: Sequence[int] | Int64s) -> npt.NDArray[np.float64]:
        return _scaled(ticks, self._tick)

    def quantities(self, lots: Sequence[int] | Int64s) -> npt.NDArray[np.float64]:
        return _scaled(lots, self._step)

    def notionals(self, ticklots: Sequence[int] | Int64s) -> npt.NDArray[np.float64]:
        return _scaled(ticklots, self._tick * self._step)


def _scaled(values: Sequence[int] | Int64s, unit: Fraction) -> npt.NDArray[np.float64]:
    # One division of whole numbers rounds once: 3 ticks of 0.1 are 0.3, not 0.30000000000000004.
    whole = np.array(values, dtype=np.float64) * unit.numerator
    scaled: npt.NDArray[np.float64] = whole / unit.denominator
    return scaled


def _times(milliseconds: Iterable[int]) -> pd.DatetimeIndex:
    """Timestamps of milliseconds UTC; 0 and NEVER are no time."""
    given = np.asarray(milliseconds if isinstance(milliseconds, np.ndarray) else list(milliseconds), dtype=np.int64)
    values = np.where((given > 0) & (given < NEVER), given, np.iinfo(np.int64).min)
    return pd.DatetimeIndex(values.view("datetime64[ms]"), name="time").tz_localize("UTC")


def _frame(schema: Mapping[str, str], rows: Sequence[tuple[Any, ...]]) -> pd.DataFrame:
    """Make a frame of rows `(time, *values)`; the columns have the schema's types even where there are no rows."""
    columns: list[Sequence[Any]] = list(zip(*rows, strict=True)) or [()] * (len(schema) + 1)
    return _table(schema, columns[0], dict(zip(schema, columns[1:], strict=True)))


def _table(schema: Mapping[str, str], times: Iterable[int], columns: Mapping[str, Any]) -> pd.DataFrame:
    data = {
        name: _times(columns[name]) if kind == _TIME else pd.array(columns[name], dtype=kind)
        for name, kind in schema.items()
    }
    return pd.DataFrame(data).set_index(_times(times))


def _bars_frame(units: _Units, columns: Mapping[str, Any], first: int) -> pd.DataFrame:
    whole = {name: np.asarray(column, dtype=np.int64) for name, column in columns.items()}
    opened, closed = whole["open_time"], whole["close_time"]
    volume, notional = units.quantities(whole["volume"]), units.notionals(whole["notional"])
    table: dict[str, Any] = {
        **{name: whole[name] for name in ("day", "number", "trade_count", "first_trade_id", "last_trade_id")},
        **{name: units.prices(whole[name]) for name in ("open", "high", "low", "close")},
        "bar": np.arange(first, first + len(closed)),
        "open_time": opened,
        "duration_s": (closed.astype(np.float64) - opened) / 1000,
        "volume": volume,
        "taker_buy_volume": units.quantities(whole["taker_buy_volume"]),
        "notional": notional,
        "bar_vwap": np.divide(notional, volume, out=np.full(len(closed), np.nan), where=volume > 0),
        "close_reason": _CLOSE_REASONS[whole["close_reason"]],
        "tainted": whole["tainted"].astype(np.bool_),
    }
    return _table(_BARS, closed, table)


_CLOSE_REASONS = np.array([reason.name for reason in CloseReason])


def _verdict_columns(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Lay the verdicts of rows out by columns; NaN where a row lacks one that others have."""
    verdicts = [_flat(row.get("verdict") or {}) for row in rows]
    names = {name for verdict in verdicts for name in verdict}
    usual = {"ready": False, "signal": 0}
    return {name: [verdict.get(name, usual.get(name, math.nan)) for verdict in verdicts] for name in names}


def _decisions_frame(
    bars: pd.DataFrame, verdict: Mapping[str, Any], orders: pd.DataFrame, refusals: pd.DataFrame
) -> pd.DataFrame:
    nothing = np.zeros(len(bars), dtype=np.int64)
    table = pd.DataFrame(
        {
            "bar": bars["bar"].to_numpy(),
            "close": bars["close"].to_numpy(),
            "ready": np.asarray(verdict.get("ready", nothing), dtype=np.bool_),
            "signal": pd.array(
                _SIDES[np.sign(np.asarray(verdict.get("signal", nothing), dtype=np.int64))], dtype="str"
            ),
        },
        index=bars.index,
    )
    outcome = np.full(len(bars), "", dtype=object)
    first = int(table["bar"].iloc[0]) if len(table) else 0
    entries = orders[orders["purpose"] == Purpose.ENTRY.name]
    said = [(bar, f"refused: {code}") for bar, code in zip(refusals["bar"], refusals["code"], strict=True)]
    said += [(bar, f"entry {status}") for bar, status in zip(entries["bar"], entries["status"], strict=True)]
    for bar, text in said:
        if first <= bar < first + len(table):
            outcome[bar - first] = text
    table["outcome"] = pd.array(outcome, dtype="str")
    for name in sorted(verdict):
        if name not in ("ready", "signal"):
            table[name] = verdict[name]
    return table


_SIDES = np.array(["", Side.BUY.name, Side.SELL.name])
"""By the sign of a signal; -1 counts from the end."""


def reasons(decisions: pd.DataFrame) -> list[str]:
    """Say what each bar's rule decided: triggers that fired, filters that passed or said no; empty where none fired.

    A filter of the built-in rule is told of only where it said no, one of a rule of one's own in any case.
    """
    values = decisions.drop(columns=list(_DECISIONS))
    triggers, filters = values.select_dtypes("integer"), values.select_dtypes("bool")
    own = [name for name in filters if name not in WITHOUT_A_RULE]
    has_fired = (triggers != 0).any(axis=1).to_numpy() | (decisions["signal"] != "").to_numpy()
    texts = [""] * len(decisions)
    for row in np.flatnonzero(has_fired):
        fired = [f"{name} {value:+d}" for name, value in triggers.iloc[row].items() if value]
        passed = [f"{name} yes" for name in own if filters[name].iloc[row]]
        refused = [f"{name} no" for name, passed in filters.iloc[row].items() if not passed]
        texts[row] = " · ".join(fired + passed + refused)
    return texts


def _flat(verdict: Mapping[str, Any]) -> dict[str, Any]:
    """Lay groups inside a verdict (`conditions`, `indicators`) side by side."""
    flat: dict[str, Any] = {}
    for name, value in verdict.items():
        if isinstance(value, Mapping):
            flat.update(_flat(value))
        else:
            flat[name] = math.nan if value is None else value
    return flat


def _round_trips_frame(units: _Units, trips: Sequence[RoundTrip]) -> pd.DataFrame:
    rows = []
    for trip in trips:
        entry = Fraction(trip.entry_notional, trip.quantity) if trip.quantity else Fraction(0)
        risk = units.notional(abs(int(trip.entry_notional - trip.stop_price * trip.quantity)))
        rows.append(
            (
                trip.closed_at,
                trip.id,
                "LONG" if trip.side is Side.BUY else "SHORT",
                trip.opened_at,
                trip.closed_at,
                (trip.closed_at - trip.opened_at) / 60_000,
                trip.bar_number,
                units.quantity(trip.quantity),
                units.price(entry),
                units.price(Fraction(trip.exit_notional, trip.quantity)) if trip.quantity else math.nan,
                units.price(trip.stop_price) if trip.stop_price else math.nan,
                units.price(trip.take_profit_price) if trip.take_profit_price else math.nan,
                trip.realised / MONEY,
                trip.fees / MONEY,
                trip.funding / MONEY,
                trip.net / MONEY,
                trip.net / MONEY / risk if trip.stop_price and risk else math.nan,
                trip.exit_reason,
            )
        )
    return _frame(_ROUND_TRIPS, rows)


def _equity_frame(units: _Units, points: Rows) -> pd.DataFrame:
    equity = points["wallet"] + points["unrealised"]
    drawdown = equity - np.maximum.accumulate(equity) if len(equity) else equity
    columns = {
        "wallet": points["wallet"] / MONEY,
        "unrealised": points["unrealised"] / MONEY,
        "equity": equity / MONEY,
        "drawdown": drawdown / MONEY,
        "position": units.quantities(points["position"]),
        "valued_at": np.where(points["at_mark"], "mark", "last"),
    }
    return _table(_EQUITY, points["time"], columns)


def _breaker_frame(changes: Sequence[BreakerChange]) -> pd.DataFrame:
    rows = []
    for change in changes:
        unit = 1 if change.rule in COUNTED else MONEY
        rows.append(
            (
                change.time,
                change.rule,
                change.mode,
                change.action,
                change.measure / unit,
                change.limit / unit,
                change.resume_at,
            )
        )
    return _frame(_BREAKER, rows)


def settings_table(config: Config) -> pd.DataFrame:
    """Lay out every parameter, one row a component; those that differ from the default stand apart."""
    default = Config(signals=type(config.signals)()).model_dump(mode="json")
    rows = {}
    for component, part in config.model_dump(mode="json").items():
        usual = default[component]
        changed = [f"{name} {value} (default {usual[name]})" for name, value in part.items() if value != usual[name]]
        rows[component] = {
            "parameters": " · ".join(f"{name} {value}" for name, value in part.items()),
            "not the default": " · ".join(changed),
        }
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("component")


def orders_by_status(run: Frames) -> pd.DataFrame:
    """Count the orders of each purpose by what became of them."""
    return run.orders.groupby(["purpose", "status"]).size().unstack(fill_value=0)


def readable(frame: pd.DataFrame, drop: Sequence[str] = (), decimals: int = 4) -> pd.DataFrame:
    """Write a frame as texts for people: times to the second, UTC; numbers rounded, empty where there is none."""
    table = frame.drop(columns=list(drop))
    for name in table.columns:
        if isinstance(table[name].dtype, pd.DatetimeTZDtype):
            table[name] = table[name].dt.strftime(_MOMENT).fillna("")
        elif table[name].dtype.kind == "f":
            table[name] = _rounded(table[name], decimals)
    if isinstance(table.index, pd.DatetimeIndex):
        table.index = table.index.strftime(_MOMENT).rename("time, UTC")
    return table


_MOMENT = "%Y-%m-%d %H:%M:%S"


def _rounded(values: pd.Series[float], decimals: int) -> list[str]:
    """Write a column's numbers with the same decimals: as many as its values need, at most so many."""
    texts = [f"{value:.{decimals}f}" for value in values if not math.isnan(value)]
    needed = max((len(text.partition(".")[2].rstrip("0")) for text in texts), default=0)
    return ["" if math.isnan(value) else f"{value:,.{needed}f}" for value in values]


# --- statistics ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Statistics:
    """Figures of a run on calendar time (365 days, UTC). Money in the quote asset; NaN where there is no figure."""

    started: pd.Timestamp
    ended: pd.Timestamp
    days: float
    bars: int
    signals: int
    refusals: int
    round_trips: int
    long_trips: int
    short_trips: int
    win_rate: float
    """Part of the round trips with net > 0."""
    profit_factor: float
    """Net of the winners over net lost by the losers."""
    net: float
    """Of the closed round trips: realised - fees + funding."""
    realised: float
    fees: float
    funding: float
    slippage: float
    """What fills cost against the decision's price, where that is known; already inside `realised`."""
    equity_change: float
    """Last equity - first equity; differs from `net` by what is still open and by transfers."""
    max_drawdown: float
    """Deepest fall of equity from its highest so far, as a positive amount."""
    max_drawdown_fraction: float
    exposure: float
    """Part of the calendar time with a position."""
    turnover: float
    """Notional of all fills."""
    sharpe: float
    """Annualised mean over deviation of equity returns; `sharpe_basis` says of which."""
    sharpe_basis: str
    average_win: float
    average_loss: float
    average_minutes: float

    quote_asset: str

    def table(self) -> pd.DataFrame:
        """Figures for people: one row a measure, with its value as text."""
        rows = [(label, show(self, self.quote_asset)) for label, show in _STATISTICS_ROWS.items()]
        return pd.DataFrame(rows, columns=["measure", "value"]).set_index("measure")


def _money_cell(name: str) -> Callable[[Statistics, str], str]:
    return lambda s, quote: f"{getattr(s, name):+,.2f} {quote}" if math.isfinite(getattr(s, name)) else "-"


def _part_cell(name: str) -> Callable[[Statistics, str], str]:
    return lambda s, quote: f"{getattr(s, name):.1%}" if math.isfinite(getattr(s, name)) else "-"


def _number_cell(name: str, digits: int = 2) -> Callable[[Statistics, str], str]:
    return lambda s, quote: f"{getattr(s, name):,.{digits}f}" if math.isfinite(getattr(s, name)) else "-"


_STATISTICS_ROWS: dict[str, Callable[[Statistics, str], str]] = {
    "from": lambda s, quote: f"{s.started:%Y-%m-%d %H:%M:%S} UTC" if s.bars else "-",
    "to": lambda s, quote: f"{s.ended:%Y-%m-%d %H:%M:%S} UTC" if s.bars else "-",
    "calendar days": _number_cell("days", 3),
    "bars": _number_cell("bars", 0),
    "signals": _number_cell("signals", 0),
    "refused signals": _number_cell("refusals", 0),
    "round trips (long / short)": lambda s, quote: f"{s.round_trips} ({s.long_trips} / {s.short_trips})",
    "win rate": _part_cell("win_rate"),
    "profit factor": _number_cell("profit_factor"),
    "net PnL of round trips": _money_cell("net"),
    "realised before costs": _money_cell("realised"),
    "fees": lambda s, quote: f"{-s.fees:+,.2f} {quote}",
    "funding": _money_cell("funding"),
    "slippage (inside realised)": lambda s, quote: f"{-s.slippage:+,.2f} {quote}" if math.isfinite(s.slippage) else "-",
    "change of equity": _money_cell("equity_change"),
    "max drawdown": lambda s, quote: f"{-s.max_drawdown:+,.2f} {quote} ({s.max_drawdown_fraction:.2%})",
    "time in a position": _part_cell("exposure"),
    "turnover": lambda s, quote: f"{s.turnover:,.2f} {quote}",
    "Sharpe ratio": lambda s, quote: (
        f"{s.sharpe:.2f} ({s.sharpe_basis})" if math.isfinite(s.sharpe) else s.sharpe_basis
    ),
    "average win": _money_cell("average_win"),
    "average loss": _money_cell("average_loss"),
    "average holding, minutes": _number_cell("average_minutes", 1),
}


def statistics(run: Frames) -> Statistics:
    """Compute a run's figures on calendar time."""
    trips, fills = run.round_trips, run.fills
    equity, nets = run.equity["equity"].to_numpy(), trips["net"].to_numpy()
    started, ended = _span(run)
    returns = measures.returns_of(_milliseconds(run.equity.index), equity)
    deepest, deepest_fraction = measures.max_drawdown(equity)
    signed = np.where(fills["side"] == "BUY", fills["quantity"], -fills["quantity"])
    lots = np.rint(signed / float(run.instrument.step_size)).astype(np.int64)
    return Statistics(
        started=started,
        ended=ended,
        days=(ended - started).total_seconds() / 86_400,
        bars=len(run.bars),
        signals=int((run.decisions["signal"] != "").sum()),
        refusals=len(run.refusals),
        round_trips=len(trips),
        long_trips=int((trips["side"] == "LONG").sum()),
        short_trips=int((trips["side"] == "SHORT").sum()),
        win_rate=measures.win_rate(nets),
        profit_factor=measures.profit_factor(nets),
        net=float(nets.sum()),
        realised=float(trips["realised"].sum()),
        fees=float(trips["fees"].sum()),
        funding=float(trips["funding"].sum()),
        slippage=float(run.orders["slippage"].sum(min_count=1)),
        equity_change=float(equity[-1] - equity[0]) if len(equity) else math.nan,
        max_drawdown=deepest,
        max_drawdown_fraction=deepest_fraction,
        exposure=measures.exposure(_milliseconds(fills.index), lots, _ms(started), _ms(ended)),
        turnover=float(fills["notional"].sum()),
        sharpe=returns.annual_sharpe,
        sharpe_basis=returns.basis,
        average_win=float(nets[nets > 0].mean()) if (nets > 0).any() else math.nan,
        average_loss=float(nets[nets < 0].mean()) if (nets < 0).any() else math.nan,
        average_minutes=float(trips["minutes"].mean()) if len(trips) else math.nan,
        quote_asset=run.instrument.quote_asset,
    )


def _span(run: Frames) -> tuple[pd.Timestamp, pd.Timestamp]:
    """First and last moment that the run tells of: the first bar's opening, the last bar, valuation or fill."""
    starts = [*run.bars["open_time"].iloc[:1], *run.equity.index[:1]]
    ends = [*run.bars.index[-1:], *run.equity.index[-1:], *run.fills.index[-1:]]
    epoch = pd.Timestamp(0, tz="UTC")
    return min(starts, default=epoch), max(ends, default=epoch)


def refusals_by_code(run: Frames) -> pd.DataFrame:
    """Count the refusals of each gate, most frequent first, with the last detail as an example."""
    groups = run.refusals.groupby("code", sort=False)
    table = pd.DataFrame({"count": groups.size(), "for example": groups["detail"].last()})
    return table.sort_values("count", ascending=False)


def costs(run: Frames) -> pd.DataFrame:
    """Lay out how the price moves that were decided on became net PnL: slippage, fees and funding apart, in money.

    `per round trip` is the mean, `of turnover (bps)` the part of the notional of all fills.
    """
    trips = run.round_trips
    slippage = float(run.orders["slippage"].sum())
    realised, fees, funding = (float(trips[name].sum()) for name in ("realised", "fees", "funding"))
    amounts = {
        "price moves, at decision prices": realised + slippage,
        "slippage": -slippage,
        "realised": realised,
        "fees": -fees,
        "funding": funding,
        "net": realised - fees + funding,
    }
    table = pd.DataFrame({"amount": amounts})
    turnover = float(run.fills["notional"].sum())
    table["per round trip"] = table["amount"] / len(trips) if len(trips) else math.nan
    table["of turnover (bps)"] = table["amount"] / turnover * 10_000 if turnover else math.nan
    table.index.name = "item"
    return table


def round_trips_by_exit(run: Frames) -> pd.DataFrame:
    """Sum up the round trips by what ended them, most frequent first; `r_multiple` and `minutes` are means."""
    by_exit = run.round_trips.groupby("exit_reason")
    table = by_exit.agg(
        count=("net", "size"),
        winners=("net", lambda nets: int((nets > 0).sum())),
        net=("net", "sum"),
        r_multiple=("r_multiple", "mean"),
        minutes=("minutes", "mean"),
    )
    return table.sort_values("count", ascending=False)


def returns(run: Frames, period_ms: int | None = None) -> measures.Returns:
    """Returns of equity over periods of calendar time, as in `measures.returns_of`."""
    return measures.returns_of(_milliseconds(run.equity.index), run.equity["equity"].to_numpy(), period_ms)


def breaker_distances(run: Frames, settings: RiskSettings) -> pd.DataFrame:
    """Show how near each breaker rule came to its limit at the run's end, by the breaker's own arithmetic.

    The run's valuations, entries and round trips are told to a `CircuitBreaker` anew, so measures start from the run's
    first valuation. They and the limits are money or a count of round trips, as `unit` says.
    """
    columns = ["measure", "limit", "left", "used", "unit"]
    if run.equity.empty:
        return pd.DataFrame(columns=columns, index=pd.Index([], name="rule"))
    events: list[tuple[Any, int, float]] = []
    entries = run.fills[run.fills["purpose"] == Purpose.ENTRY.name]
    opened = entries[~entries["round_trip"].duplicated()]
    events += [(time, _OPENED, 0.0) for time in opened.index]
    events += [(time, _CLOSED, net) for time, net in run.round_trips["net"].items()]
    events += [(time, _VALUED, value) for time, value in run.equity["equity"].items()]
    first = run.equity.iloc[0]
    breaker = CircuitBreaker(settings, _ms(run.equity.index[0]), round(first["equity"] * MONEY))
    for time, kind, amount in sorted(events):
        if kind == _OPENED:
            breaker.on_round_trip_opened(_ms(time))
        elif kind == _CLOSED:
            breaker.on_round_trip_closed(_ms(time), round(amount * MONEY))
        else:
            breaker.on_equity(_ms(time), round(amount * MONEY))
    rows = []
    for rule, (measure, limit) in breaker.distances().items():
        unit = 1 if rule in COUNTED else MONEY
        measured, bound = max(measure, 0) / unit, limit / unit
        rows.append(
            (measured, bound, max(bound - measured, 0.0), measured / bound if bound else math.nan, _unit_name(rule))
        )
    return pd.DataFrame(rows, columns=columns, index=pd.Index(list(breaker.distances()), name="rule"))


_OPENED, _CLOSED, _VALUED = range(3)


def _milliseconds(index: pd.Index) -> Int64s:
    return np.asarray(pd.DatetimeIndex(index).as_unit("ms").asi8)


def _ms(time: pd.Timestamp) -> int:
    return int(time.timestamp() * 1000 + 0.5)


def _unit_name(rule: str) -> str:
    return "round trips" if rule in COUNTED else "quote asset"
