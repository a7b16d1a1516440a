"""Frames, statistics and tables of a run, computed from its facts and from nothing else.

The same functions serve a backtest's facts in memory and a journal on disk, of a run that goes on, ended or was killed.
`frames` makes the frames of what is collected here; nothing goes back from here into trading.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pandas as pd
from pydantic import TypeAdapter

from voltrade import journal, journal_rows, risk
from voltrade.compiled import Rows
from voltrade.config import Config, RiskSettings
from voltrade.errors import JournalError
from voltrade.model import (
    BAR,
    EQUITY,
    MONEY,
    Alert,
    AlgoUpdate,
    BreakerChange,
    CancelOrder,
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
    ResumeState,
    RoundTrip,
    Side,
    Snapshot,
)
from voltrade.order_states import DONE, STATUS_ALIASES
from voltrade.report import performance
from voltrade.report.frames import DECISIONS, FOREIGN, WITHOUT_A_RULE, Beginning, Columns, Frames, frames_of_columns
from voltrade.risk import COUNTED, CircuitBreaker

_UNSHOWN = frozenset(
    {"Trades", "MarkPrice", "Timer", "AccountUpdate", "StreamStatus", "BarResumePoint", "LookupOrder", "TakeSnapshot"}
)
"""Kinds of journal rows that no frame shows; they needn't be decoded."""

# An order that was taken for not placed may turn out to exist; one that ended stays ended.
_ENDED = DONE - {"NOT_PLACED"}


def frames(instrument: Instrument, bar_rows: Iterable[Mapping[str, Any]], facts: Iterable[object]) -> Frames:
    """Build the frames of a run.

    Args:
        instrument: The symbol's tick, step and names.
        bar_rows: The bars in order, each with the fields of `model.VolumeBar` as integers and a `decision` mapping.
        facts: The model facts in the order in which they happened; kinds that no frame shows are passed over.
    """
    collector = Collector(instrument)
    for row in bar_rows:
        collector.add_bar(row)
    for fact in facts:
        collector.add(fact)
    return collector.frames()


def research_frames(
    instrument: Instrument, bars: Rows, decisions: Rows, first_bar: int, facts: Iterable[object]
) -> Frames:
    """Build the frames of a session that ran in memory, from its arrays of bars and its facts.

    Args:
        bars: rows of `model.BAR`; those before `first_bar` were the warm-up.
        decisions: of each bar, rows of the engine's `decision_dtype`.
        facts: intents, answers, fills and notes.
    """
    collector = Collector(instrument)
    for fact in facts:
        collector.add(fact)
    rows, said = bars[first_bar:], decisions[first_bar:]
    columns = {name: rows[name] for name in BAR.names or ()}
    decision = {name: said[name] for name in decisions.dtype.names or ()}
    return collector.frames_of(columns, decision, first_bar, {name: bars[name] for name in ("close", "close_time")})


def _equity_rows(points: Sequence[EquityPoint]) -> Rows:
    """Write valuations as rows of EQUITY."""
    rows = [(point.time, point.wallet, point.unrealised, point.position, point.valued_at == "mark") for point in points]
    return np.array(rows, EQUITY)


@dataclass(slots=True)
class _Order:
    """What is known of one order so far; integers as in the facts."""

    client_order_id: str
    time: int
    side: Side
    type: str
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
        return self.intent.purpose.name if self.intent else FOREIGN

    @property
    def round_trip(self) -> int:
        return self.intent.round_trip if self.intent else -1

    @property
    def bar(self) -> int:
        return self.intent.bar_number if self.intent else -1

    @property
    def reason(self) -> str:
        return self.intent.reason if self.intent else ""


_Note = TypeVar("_Note")


class Collector:
    """Gathers the facts of a run as they come, and makes frames of them at any time."""

    def __init__(self, instrument: Instrument) -> None:
        self.instrument = instrument
        self._bars: list[Mapping[str, Any]] = []
        self._orders: dict[str, _Order] = {}
        self._by_order_id: dict[int, str] = {}
        self._fills: dict[int, tuple[_Order, OrderUpdate]] = {}
        self._beginning = Beginning()
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
        """Add a closed bar: the fields of `model.VolumeBar` as integers, and its `decision`."""
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
                self._add_snapshot(fact)
            case ResumeState():
                breaker = json.loads(fact.state)["breaker"]
                self._beginning = replace(self._beginning, breaker=breaker)
            case _:
                notes = self._notes.get(type(fact))
                if notes is not None:
                    notes.append(fact)

    def _add_snapshot(self, snapshot: Snapshot) -> None:
        """Add what an account has open, and its fills since the run began: it may list any number of earlier ones."""
        if not self._beginning.time:
            self._begin(snapshot)
        for order in snapshot.orders:
            self._add_order_update(order)
        for fill in snapshot.fills:
            if fill.time >= self._beginning.time or self._is_known(fill):
                self._add_order_update(fill)
        for algo_order in snapshot.algo_orders:
            self._add_algo_update(algo_order)

    def _begin(self, snapshot: Snapshot) -> None:
        self._beginning = replace(self._beginning, time=snapshot.time)
        if self._beginning.breaker is not None:  # an account with a past is valued from the first fill or mark alone
            held = snapshot.position
            money = snapshot.wallet, held.unrealised, snapshot.wallet + held.unrealised
            self._notes[EquityPoint].append(EquityPoint(snapshot.time, snapshot.symbol, *money, held.quantity, "mark"))

    def _is_known(self, update: OrderUpdate) -> bool:
        return update.order_id in self._by_order_id or update.client_order_id in self._orders

    def _add_intent(self, intent: OrderIntent) -> None:
        request = intent.order
        self._orders[request.client_order_id] = _Order(
            client_order_id=request.client_order_id,
            time=intent.time,
            side=request.side,
            type=str(request.order_type),
            quantity=request.quantity,
            intent=intent,
            price=request.price,
            trigger_price=request.trigger_price,
            reduce_only=request.reduce_only or request.close_position,
        )

    def _add_order_update(self, update: OrderUpdate) -> None:
        # A triggered conditional order goes on as an ordinary one, usually under the same client id.
        self._name_order(update.order_id, update.client_order_id)
        name = self._by_order_id.get(update.order_id) or update.client_order_id or f"#{update.order_id}"
        order = self._orders.get(name)
        if order is None:
            order = self._orders[name] = _Order(
                name, update.time, update.side, str(update.order_type), update.quantity, price=update.price
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

    def _name_order(self, order_id: int, name: str) -> None:
        """Take what a list of trades told of an order, by its number alone, as of the order that it is now known to be.

        Until an event or a look-up names the order, its fill may be known from the account's trades already.
        """
        unnamed = f"#{order_id}"
        if not name or self._by_order_id.get(order_id) != unnamed or name == unnamed:
            return
        told = self._orders.pop(unnamed)
        self._by_order_id[order_id] = name
        order = self._orders.setdefault(name, replace(told, client_order_id=name))
        order.filled, order.updated = max(order.filled, told.filled), max(order.updated, told.updated)
        order.order_id = order_id
        for trade_id, (of, update) in self._fills.items():
            if of is told:
                self._fills[trade_id] = (order, update)

    def _add_algo_update(self, update: AlgoUpdate) -> None:
        name = update.client_order_id
        self._name_order(update.order_id, name)
        order = self._orders.get(name)
        if order is None:
            order = self._orders[name] = _Order(
                name,
                update.time,
                update.side,
                str(update.order_type),
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
        all_bars = {name: [row[name] for row in self._bars] for name in ("close", "close_time")}
        return self.frames_of(columns, _decision_columns(rows), first, all_bars)

    def frames_of(self, bars: Columns, decision: Columns, first: int, all_bars: Columns) -> Frames:
        """Make the frames of everything added so far, and of these bars.

        Args:
            bars: those that are shown, by the fields of BAR.
            decision: columns of their decisions.
            first: number of the first of them.
            all_bars: `close` and `close_time` of all bars.
        """
        refusals = [(n.time, n.bar_number, n.side, n.code, n.detail) for n in self._notes[Refusal]]
        return frames_of_columns(
            self.instrument,
            bars=bars,
            decision=decision,
            first=first,
            all_bars=all_bars,
            orders=self._order_columns(),
            fills=self._fill_columns(),
            trips=_fields(self._notes[RoundTrip], _TRIP),
            equity=_equity_rows(self._notes[EquityPoint]),
            refusals=_columns(("time", "bar", "side", "code", "detail"), refusals),
            breaker=_fields(self._notes[BreakerChange], _CHANGE),
            alerts=_fields(self._notes[Alert], ("time", "code", "text")),
            gaps=_fields(self._notes[FeedGap], ("time", "first_id", "last_id", "filled")),
            operator=_fields(self._notes[Operator], ("time", "action", "reason", "final")),
            beginning=self._beginning,
        )

    def _order_columns(self) -> Columns:
        traded = {name: [0, 0, 0] for name in self._orders}
        for order, fill in self._fills.values():
            sums = traded[order.client_order_id]
            sums[0] += fill.last_quantity
            sums[1] += fill.last_quantity * fill.last_price
            sums[2] += fill.fee
        sums_of_fills = _columns(("traded", "traded_notional", "fees"), list(traded.values()))
        return {**_fields(self._orders.values(), _ORDER), **sums_of_fills}

    def _fill_columns(self) -> Columns:
        orders, fills = ([each[at] for each in self._fills.values()] for at in (0, 1))
        renamed = {"price": "last_price", "quantity": "last_quantity"}
        return {
            **_fields(fills, ("time", "trade_id", "side", "fee", "fee_asset", "realised", "is_maker")),
            **_fields(orders, ("client_order_id", "round_trip", "purpose")),
            **{name: [getattr(fill, field) for fill in fills] for name, field in renamed.items()},
        }


_ORDER = (
    *("time", "client_order_id", "order_id", "round_trip", "bar", "purpose", "side", "type", "quantity", "price"),
    *("trigger_price", "reduce_only", "status", "filled", "code", "text", "reason", "answered", "updated"),
)
_TRIP = (
    *("id", "side", "opened_at", "closed_at", "bar_number", "quantity", "entry_notional", "exit_notional"),
    *("stop_price", "take_profit_price", "realised", "fees", "funding", "net", "exit_reason"),
)
_CHANGE = ("time", "rule", "mode", "action", "measure", "limit", "resume_at")


def _fields(facts: Collection[Any], names: Sequence[str]) -> Columns:
    return {name: [getattr(fact, name) for fact in facts] for name in names}


def _columns(names: Sequence[str], rows: Sequence[Sequence[Any]]) -> Columns:
    return {name: [row[at] for row in rows] for at, name in enumerate(names)}


def _decision_columns(rows: Sequence[Mapping[str, Any]]) -> Columns:
    """Lay the decisions of rows out by columns; NaN where a row lacks one that others have."""
    decisions = [_flat(row.get("decision") or {}) for row in rows]
    names = {name for decision in decisions for name in decision}
    usual = {"ready": False, "signal": 0}
    return {name: [decision.get(name, usual.get(name, math.nan)) for decision in decisions] for name in names}


def _flat(decision: Mapping[str, Any]) -> dict[str, Any]:
    """Lay groups inside a decision (`conditions`, `indicators`) side by side."""
    flat: dict[str, Any] = {}
    for name, value in decision.items():
        if isinstance(value, Mapping):
            flat.update(_flat(value))
        else:
            flat[name] = math.nan if value is None else value
    return flat


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

    def _take(self, row: journal_rows.Row) -> None:
        if row.kind == "Start":
            self.start = journal_rows.decode(row.kind, row.body)
            instrument = TypeAdapter(Instrument).validate_python(self.start["instrument"])
            self._collector = Collector(instrument)
        elif row.kind == "Bar":
            self.collector.add_bar(journal_rows.decode(row.kind, row.body))
        elif row.kind == "End":
            self.end = journal_rows.decode(row.kind, row.body)
        elif row.kind not in _UNSHOWN:
            self.collector.add(journal_rows.decode(row.kind, row.body))

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


def reasons(decisions: pd.DataFrame) -> list[str]:
    """Say what each bar's rule decided: triggers that fired, filters that passed or said no; empty where none fired.

    A filter of the built-in rule is told of only where it said no, one of a rule of one's own in any case. Of a bar
    with a signal nothing is told of what the filters of the other side, `..._long` or `..._short`, said.
    """
    values = decisions.drop(columns=list(DECISIONS))
    triggers, filters = ([str(name) for name in values.select_dtypes(kind)] for kind in ("integer", "bool"))
    signal = decisions["signal"].map({"BUY": 1, "SELL": -1}).fillna(0).to_numpy(dtype=np.int64)
    columns = [signal, *(values[name].to_numpy() for name in (*triggers, *filters))]
    case_of = np.zeros(len(decisions), dtype=np.int64)
    for column in columns:
        kinds, kind_of = np.unique(column, return_inverse=True)
        case_of = np.unique(case_of * len(kinds) + kind_of, return_inverse=True)[1]
    _, places = np.unique(case_of, return_index=True)  # a few: most bars are alike
    texts = [_reason(triggers, filters, [int(column[place]) for column in columns]) for place in places]
    return [texts[case] for case in case_of.tolist()]


def _reason(triggers: Sequence[str], filters: Sequence[str], case: Sequence[int]) -> str:
    """Say what the rule decided where the signal, the triggers and the filters are these."""
    fired = [f"{name} {value:+d}" for name, value in zip(triggers, case[1:], strict=False) if value]
    if not fired and not case[0]:
        return ""
    other = {1: "_short", -1: "_long"}.get(case[0], "no such side")
    answers = {
        name: answer
        for name, answer in zip(filters, case[1 + len(triggers) :], strict=True)
        if not name.endswith(other)
    }
    passed = [f"{name} yes" for name, answer in answers.items() if answer and name not in WITHOUT_A_RULE]
    return " · ".join(fired + passed + [f"{name} no" for name, answer in answers.items() if not answer])


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
    """Write a frame as texts for people: times to the second, UTC, as their columns' names say; numbers rounded, empty
    where there is none. The time of a round trip is that of its close, and named so."""
    table = frame.drop(columns=list(drop))
    times = [name for name in table.columns if isinstance(table[name].dtype, pd.DatetimeTZDtype)]
    for name in table.columns:
        if isinstance(table[name].dtype, pd.DatetimeTZDtype):
            table[name] = table[name].dt.strftime(_MOMENT).fillna("")
        elif table[name].dtype == "boolean":
            table[name] = ["--" if answer is pd.NA else str(answer) for answer in table[name]]
        elif table[name].dtype.kind == "f":
            table[name] = _rounded(table[name], decimals)
    if isinstance(table.index, pd.DatetimeIndex):
        at = "closed" if "closed" in frame.columns else "time"
        table.index = table.index.strftime(_MOMENT).rename(f"{at}, UTC")
    return table.rename(columns={name: f"{name}, UTC" for name in times})


_MOMENT = "%Y-%m-%d %H:%M:%S"


def _rounded(values: pd.Series[float], decimals: int) -> list[str]:
    """Write a column's numbers with the same decimals: as many as its values need, at most so many."""
    texts = [f"{value:.{decimals}f}" for value in values if not math.isnan(value)]
    needed = max((len(text.partition(".")[2].rstrip("0")) for text in texts), default=0)
    return ["" if math.isnan(value) else f"{value:,.{needed}f}" for value in values]


# --- statistics ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Held:
    """The position at a run's end, which is in no round trip yet."""

    quantity: float = 0.0
    """Signed, in coins; 0 where none is held."""
    unrealised: float = 0.0
    """Of the last valuation, as `fees` in the quote asset; both are in the equity."""
    fees: float = 0.0
    """Of its fills in this run: a cost, so negative."""
    base_asset: str = ""
    quote_asset: str = ""

    @staticmethod
    def of(run: Frames) -> Held:
        """Read it from a run's frames."""
        if run.equity.empty or not run.equity["position"].iloc[-1]:
            return Held()
        last = run.equity.iloc[-1]
        fees = float(run.fills["fee"][~_is_settled(run, run.fills)].sum())
        assets = run.instrument.base_asset, run.instrument.quote_asset
        return Held(float(last["position"]), float(last["unrealised"]), fees, *assets)

    def __str__(self) -> str:
        if not self.quantity:
            return "none"
        money = f"unrealised {self.unrealised:+,.2f}, fees {self.fees:+,.2f} {self.quote_asset}"
        return f"{self.quantity:+,.15g} {self.base_asset}, {money}"


@dataclass(frozen=True)
class Statistics(performance.Figures):
    """Figures of a run, with what only frames tell; `sharpe_basis` says which returns the Sharpe ratio is of."""

    started: pd.Timestamp
    ended: pd.Timestamp
    days: float
    slippage: float
    """What fills of closed round trips brought against the decision's price, where that is known: a cost is negative.
    Inside `realised`."""
    without_reference: int
    """Filled orders whose slippage is unknown, since nothing says at what price they were decided."""
    sharpe_basis: str
    average_win: float
    average_loss: float
    average_minutes: float
    held: Held
    quote_asset: str

    def table(self) -> pd.DataFrame:
        """Figures for people: one row a measure, with its value as text."""
        rows = [(label, show(self, self.quote_asset)) for label, show in _STATISTICS_ROWS.items()]
        return pd.DataFrame(rows, columns=["measure", "value"]).set_index("measure")


_MONEY, _PART = "{:+,.2f} {}", "{:.1%}"


def _cell(name: str, form: str = "{:,.2f}") -> Callable[[Statistics, str], str]:
    """Write a figure, and its quote asset where the form has a place for it; a dash where there is no figure."""
    return lambda s, quote: form.format(getattr(s, name), quote) if math.isfinite(getattr(s, name)) else "-"


def _unknown_text(orders: int, before: str) -> str:
    if not orders:
        return ""
    return f"{before}{orders:,} {'order' if orders == 1 else 'orders'} without a reference price"


_STATISTICS_ROWS: dict[str, Callable[[Statistics, str], str]] = {
    "from": lambda s, quote: f"{s.started:%Y-%m-%d %H:%M:%S} UTC" if s.bars else "-",
    "to": lambda s, quote: f"{s.ended:%Y-%m-%d %H:%M:%S} UTC" if s.bars else "-",
    "calendar days": _cell("days", "{:,.3f}"),
    "bars": _cell("bars", "{:,.0f}"),
    "signals": _cell("signals", "{:,.0f}"),
    "refused signals": _cell("refusals", "{:,.0f}"),
    "round trips (long / short)": lambda s, quote: f"{s.round_trips} ({s.long_trips} / {s.short_trips})",
    "win rate": _cell("win_rate", _PART),
    "profit factor": _cell("profit_factor"),
    "net PnL of round trips": _cell("net", _MONEY),
    "realised before costs": _cell("realised", _MONEY),
    "fees": _cell("fees", _MONEY),
    "funding": _cell("funding", _MONEY),
    "slippage (inside realised)": lambda s, quote: (
        _cell("slippage", _MONEY)(s, quote) + _unknown_text(s.without_reference, ", ")
    ),
    "position at the end": lambda s, quote: str(s.held),
    "change of equity": _cell("equity_change", _MONEY),
    "max drawdown": lambda s, quote: f"{s.max_drawdown:+,.2f} {quote} ({s.max_drawdown_part:.2%})",
    "time in a position": _cell("exposure", _PART),
    "turnover of all fills": lambda s, quote: f"{s.turnover:,.2f} {quote}",
    "Sharpe ratio": lambda s, quote: (
        f"{s.sharpe:.2f} ({s.sharpe_basis})" if math.isfinite(s.sharpe) else s.sharpe_basis
    ),
    "average win": _cell("average_win", _MONEY),
    "average loss": _cell("average_loss", _MONEY),
    "average holding, minutes": _cell("average_minutes", "{:,.1f}"),
}


@dataclass(frozen=True, slots=True)
class CountedBars:
    """What statistics tell of a run's bars, where its frames hold but some of them."""

    bars: int
    signals: int
    opened: Sequence[int]
    """When the first bar opened, ms UTC; empty without one."""
    closed: Sequence[int]
    """When the last bar closed, ms UTC; empty without one."""

    @staticmethod
    def of(run: Frames) -> CountedBars:
        """Count the bars of a run whose frames hold them all; not those of the history that it loaded."""
        bars, decisions = run.since_begin(run.bars), run.since_begin(run.decisions)
        signals = int((decisions["signal"] != "").sum())
        opened, closed = (milliseconds(times).tolist() for times in (bars["open_time"].iloc[:1], bars.index[-1:]))
        return CountedBars(len(bars), signals, opened, closed)


def course(run: Frames, counted: CountedBars | None = None) -> performance.Course:
    """Take from a run's frames what its figures are made from; `counted` as in `statistics`."""
    counted = counted or CountedBars.of(run)
    trips, fills = run.round_trips, run.fills
    signed = np.where(fills["side"] == "BUY", fills["quantity"], -fills["quantity"])
    return performance.Course(
        bars=counted.bars,
        signals=counted.signals,
        refusals=len(run.refusals),
        opened=counted.opened,
        closed=counted.closed,
        nets=trips["net"].to_numpy(),
        long_trips=int((trips["side"] == "LONG").sum()),
        realised=float(trips["realised"].sum()),
        fees=float(trips["fees"].sum()),
        funding=float(trips["funding"].sum()),
        turnover=float(fills["notional"].sum()),
        fill_times=milliseconds(fills.index),
        fill_lots=np.rint(signed / float(run.instrument.step_size)).astype(np.int64),
        equity_times=milliseconds(run.equity.index),
        equity=run.equity["equity"].to_numpy(),
    )


def statistics(run: Frames, counted: CountedBars | None = None) -> Statistics:
    """Compute a run's figures on calendar time.

    Args:
        counted: its bars, where the frames hold but some of them.
    """
    went = course(run, counted)
    figures, returns = performance.figures_of(went)
    started, ended = (pd.Timestamp(time, unit="ms", tz="UTC") for time in went.span)
    nets, minutes = went.nets, run.round_trips["minutes"]
    return Statistics(
        **vars(figures),
        started=started,
        ended=ended,
        days=(ended - started).total_seconds() / 86_400,
        slippage=float(run.orders["slippage"][_is_settled(run, run.orders)].sum(min_count=1)),
        without_reference=_without_reference(run),
        sharpe_basis=returns.basis,
        average_win=float(nets[nets > 0].mean()) if (nets > 0).any() else math.nan,
        average_loss=float(nets[nets < 0].mean()) if (nets < 0).any() else math.nan,
        average_minutes=float(minutes.mean()) if len(minutes) else math.nan,
        held=Held.of(run),
        quote_asset=run.instrument.quote_asset,
    )


def refusals_by_code(run: Frames) -> pd.DataFrame:
    """Count the refusals of each gate, most frequent first, with the last detail as an example."""
    groups = run.refusals.groupby("code", sort=False)
    table = pd.DataFrame({"count": groups.size(), "for example": groups["detail"].last()})
    return table.sort_values("count", ascending=False)


def _is_settled(run: Frames, rows: pd.DataFrame) -> pd.Series[bool]:
    """Which orders or fills are of closed round trips, or of none: all but those of the position that is held."""
    return rows["round_trip"].isin(run.round_trips["id"]) | (rows["round_trip"] < 0)


def _without_reference(run: Frames) -> int:
    """Count the filled orders of closed round trips, or of none, whose slippage nothing can tell."""
    is_unknown = run.orders["average_price"].notna() & run.orders["slippage"].isna()
    return int((is_unknown & _is_settled(run, run.orders)).sum())


def costs(run: Frames) -> pd.DataFrame:
    """Lay out how the price moves that were decided on became net PnL: slippage, fees and funding apart, in money.

    A cost is negative. Where the slippage of orders is unknown, it is counted as none, and a column `note` says so.
    What is held at the end is in none of it; `statistics` tells of that.

    `per round trip` is the mean, `of turnover (bps)` the part of the notional of all fills of closed round trips.
    """
    trips = run.round_trips
    slippage = float(run.orders["slippage"][_is_settled(run, run.orders)].sum())
    realised, fees, funding = (float(trips[name].sum()) for name in ("realised", "fees", "funding"))
    amounts = {
        "price moves, at decision prices": realised - slippage,
        "slippage": slippage,
        "realised": realised,
        "fees": fees,
        "funding": funding,
        "net": realised + fees + funding,
    }
    table = pd.DataFrame({"amount": amounts})
    turnover = float(run.fills["notional"][_is_settled(run, run.fills)].sum())
    table["per round trip"] = table["amount"] / len(trips) if len(trips) else math.nan
    table["of turnover (bps)"] = table["amount"] / turnover * 10_000 if turnover else math.nan
    if unknown := _unknown_text(_without_reference(run), ""):
        table["note"] = [unknown if item == "slippage" else "" for item in table.index]
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


def returns(run: Frames, period_ms: int | None = None) -> performance.Returns:
    """Returns of equity over periods of calendar time, as in `performance.returns_of`."""
    return performance.returns_of(milliseconds(run.equity.index), run.equity["equity"].to_numpy(), period_ms)


def breaker_distances(run: Frames, settings: RiskSettings) -> pd.DataFrame:
    """Show how near each breaker rule is to its limit at the run's end, and how near it came, by the breaker itself.

    The run's valuations, entries, round trips and resumptions are told anew to a `CircuitBreaker` that begins with
    what the account's last run left, or else at the run's first valuation. Measures and limits are money or a count of
    round trips, as `unit` says; `used` is the part of the limit that is used at the end, `most used` the largest ever.
    """
    columns = ["measure", "limit", "left", "used", "most used", "unit"]
    begun = run.beginning.breaker
    if begun is None and run.equity.empty:
        return pd.DataFrame(columns=columns, index=pd.Index([], name="rule"))
    if begun is None:
        breaker = CircuitBreaker(settings, _ms(run.equity.index[0]), round(run.equity["equity"].iloc[0] * MONEY))
    else:
        breaker = CircuitBreaker.restore(settings, begun)
    most = _used(breaker)
    for event in _breaker_events(run):
        breaker.apply_fact(*event)
        most = {rule: max(part, most[rule]) for rule, part in _used(breaker).items()}
    tripped = run.breaker[run.breaker["action"] != "resume"]
    for rule, measure, limit in zip(tripped["rule"], tripped["measure"], tripped["limit"], strict=True):
        if rule in most and limit:
            most[rule] = max(most[rule], measure / limit)
    rows, used = [], _used(breaker)
    for rule, (measure, limit) in breaker.distances().items():
        unit = 1 if rule in COUNTED else MONEY
        measured, bound = max(measure, 0) / unit, limit / unit
        rows.append((measured, bound, max(bound - measured, 0.0), used[rule], most[rule], _unit_name(rule)))
    return pd.DataFrame(rows, columns=columns, index=pd.Index(list(breaker.distances()), name="rule"))


def _breaker_events(run: Frames) -> list[tuple[int, int, int]]:
    """What the breaker was told in a run: facts, times and amounts of money, by time, of one time the equity last."""
    entries = run.fills[run.fills["purpose"] == Purpose.ENTRY.name]
    resumed = run.operator[run.operator["action"] == "resume"]
    told: list[tuple[int, Any, float]] = [
        *((risk.OPENED, time, 0.0) for time in entries.index[~entries["round_trip"].duplicated()]),
        *((risk.CLOSED, time, net) for time, net in run.round_trips["net"].items()),
        *((risk.RESUME, time, 0.0) for time in resumed.index),
        *((risk.EQUITY, time, equity) for time, equity in run.equity["equity"].items()),
    ]
    events = [(fact, _ms(time), round(amount * MONEY)) for fact, time, amount in told]
    return sorted(events, key=lambda event: event[1])


def _used(breaker: CircuitBreaker) -> dict[str, float]:
    """The part of each rule's limit that is used."""
    parts = breaker.distances().items()
    return {rule: max(measure, 0) / limit if limit else math.nan for rule, (measure, limit) in parts}


def milliseconds(times: Iterable[Any]) -> Int64s:
    """Times as milliseconds UTC."""
    index = pd.DatetimeIndex(list(times)) if not isinstance(times, pd.DatetimeIndex | pd.Series) else times
    return np.asarray(pd.DatetimeIndex(index).as_unit("ms").asi8)


def _ms(time: pd.Timestamp) -> int:
    return int(time.timestamp() * 1000 + 0.5)


def _unit_name(rule: str) -> str:
    return "round trips" if rule in COUNTED else "quote asset"
