"""Frames of a run, made from columns of whole numbers.

`collector` makes the columns from a run's facts, `loop_frames` from the tables of a compiled session. Here integers
become floats in natural units (coins, quote asset, UTC timestamps). Trading never reads anything from here.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from decimal import Decimal
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from voltrade.compiled import Rows
from voltrade.model import MONEY, NEVER, CloseReason, Floats, Instrument, Int64s, Purpose, Side
from voltrade.report.marked import mark
from voltrade.report.performance import at_risk
from voltrade.risk import COUNTED

Columns = Mapping[str, Any]
"""Columns of equal length by name: prices in ticks, quantities in lots, notionals in ticks x lots, money in 1e-8, times
in ms UTC, sides as signs; texts and flags as they are. A missing price or time is 0."""

_TIME = "datetime64[ms, UTC]"


def _schema(columns: str) -> dict[str, str]:
    """Parse `name:type` of each column of a frame."""
    pairs = (column.split(":") for column in columns.split())
    return {name: _TIME if kind == "time" else kind for name, kind in pairs}


_BARS = _schema(
    "bar:int64 open_time:time duration_s:float64 day:int64 number:int64 open:float64 high:float64 low:float64 "
    "close:float64 volume:float64 taker_buy_volume:float64 notional:float64 bar_vwap:float64 trade_count:int64 "
    "first_trade_id:int64 last_trade_id:int64 close_reason:str tainted:bool"
)
_ORDERS = _schema(
    "client_order_id:str order_id:int64 round_trip:int64 bar:int64 purpose:str side:str type:str quantity:float64 "
    "price:float64 trigger_price:float64 reduce_only:bool status:str filled:float64 average_price:float64 "
    "reference_price:float64 slippage:float64 fees:float64 code:int64 text:str reason:str answered:time "
    "updated:time"
)
_FILLS = _schema(
    "trade_id:int64 client_order_id:str round_trip:int64 purpose:str side:str price:float64 quantity:float64 "
    "notional:float64 fee:float64 fee_asset:str realised:float64 is_maker:bool"
)
_ROUND_TRIPS = _schema(
    "id:int64 side:str opened:time closed:time minutes:float64 bar:int64 quantity:float64 entry_price:float64 "
    "exit_price:float64 stop_price:float64 take_profit_price:float64 realised:float64 fees:float64 "
    "funding:float64 net:float64 at_risk:float64 r_multiple:float64 exit_reason:str"
)
_EQUITY = _schema("wallet:float64 unrealised:float64 equity:float64 drawdown:float64 position:float64 valued_at:str")
_REFUSALS = _schema("bar:int64 side:str code:str detail:str")
_BREAKER = _schema("rule:str mode:str action:str measure:float64 limit:float64 release_at:time")
_ALERTS = _schema("code:str text:str")
_GAPS = _schema("first_id:int64 last_id:int64 missing:int64 filled:int64")
_OPERATOR = _schema("action:str reason:str final:bool")
FOREIGN = "FOREIGN"
"""Purpose of an order that isn't ours."""

WITHOUT_A_RULE = frozenset(
    {"bar", "close", "ready", "signal", "outcome", "vwap", "ema_fast", "ema_slow", "rsi", "atr", "ema_cross"}
    | {"bollinger_upper", "bollinger_middle", "bollinger_lower", "bollinger_breakout"}
    | {"rsi_long", "rsi_short", "vwap_long", "vwap_short"}
)
"""Columns of the decisions that every run has; others come from a user's rule."""

DECISIONS = ("bar", "close", "ready", "signal", "outcome")
"""Columns of the decisions that are neither an indicator nor a condition."""


@dataclass(frozen=True, slots=True)
class Beginning:
    """The beginning of a run on an account that was used before, or with loaded history."""

    time: int = 0
    """Time of the first snapshot, ms UTC; 0 where nothing was before."""
    breaker: Mapping[str, Any] | None = None
    """State of the circuit breaker from the account's last run; None where there was none."""


@dataclass(frozen=True, slots=True)
class Frames:
    """What happened in a run, as pandas frames with a UTC DatetimeIndex named `time`.

    Prices are in the quote asset for one coin, quantities in coins, money in the quote asset. Each float is the nearest
    to the exact decimal. Several rows may have the same time.
    """

    instrument: Instrument
    bars: pd.DataFrame
    """One row for each closed bar, at its close. `bar` counts the bars of the run, `number` those since the anchor.
    `bar_vwap` is the bar's notional / volume; `close_reason` is THRESHOLD or DAY_END."""
    decisions: pd.DataFrame
    """One row for each bar: `ready`, `signal` (BUY, SELL or empty), `outcome` (what happened to the signal), then every
    indicator and condition of the decision under its own name."""
    orders: pd.DataFrame
    """One row for each client order id, at the decision. `reference_price` is the trigger price, else the close of the
    bar of the decision, for an exit the last close before it; NaN for an order that isn't ours. `slippage` is the gain
    of the fills against it: money, negative where it cost, NaN where unknown. `fees` is the sum over its fills."""
    fills: pd.DataFrame
    """One row for each trade id, at the fill. `realised` is money before the fill's own fee. `fee` is negative where it
    was paid and positive for a rebate; Binance and the journal have the opposite sign."""
    round_trips: pd.DataFrame
    """One row for each closed round trip, at its close. `net` = realised + fees + funding; costs are negative.
    `at_risk` is R, the loss from the average entry to the stop, with the actual fees; `r_multiple` is net / R."""
    equity: pd.DataFrame
    """One row for each valuation: `equity` = wallet + unrealised, `drawdown` = equity - its highest so far (at most 0),
    `position` in signed coins, `valued_at` mark or last."""
    refusals: pd.DataFrame
    """One row for each signal that a gate refused, with the gate's `code`."""
    breaker: pd.DataFrame
    """One row for each change of the circuit breaker. `measure` and `limit` are money or counts, as the rule is."""
    alerts: pd.DataFrame
    """One row for each alert."""
    gaps: pd.DataFrame
    """One row for each gap in the trade ids: `missing` trades, of which `filled` came over REST."""
    operator: pd.DataFrame
    """One row for each operator command, with its reason; a `final` one ends the session."""
    beginning: Beginning = Beginning()
    """Bars and decisions may be earlier, from loaded history; no other frame has earlier rows."""

    def marked(self, warning: str) -> Frames:
        """Mark all frames with what is wrong with the tape that they rest on; tables and charts of them show it."""
        frames = {each.name: getattr(self, each.name) for each in fields(self)}
        marked: dict[str, Any] = {
            name: mark(frame, warning) for name, frame in frames.items() if isinstance(frame, pd.DataFrame)
        }
        return replace(self, **marked)

    @property
    def warning(self) -> str:
        """What the frames are marked with; empty where nothing is wrong."""
        return str(self.equity.attrs.get("warning", ""))

    def since_begin(self, frame: pd.DataFrame) -> pd.DataFrame:
        """Return the rows of a frame since the run began."""
        return _since(frame, self.beginning)


def frames_of_columns(
    instrument: Instrument,
    *,
    bars: Columns,
    decision: Columns,
    first: int,
    all_bars: Columns,
    orders: Columns,
    fills: Columns,
    trips: Columns,
    equity: Rows,
    refusals: Columns,
    breaker: Columns,
    alerts: Columns,
    gaps: Columns,
    operator: Columns,
    beginning: Beginning = Beginning(),
) -> Frames:
    """Make the frames of a run.

    Args:
        bars: columns of the bars, by the fields of BAR.
        decision: columns of their decisions; `signal` as a sign.
        first: number of the first of these bars.
        all_bars: `close` and `close_time` of all bars of the run.
        orders: fields of each intent and its last state, see `collector.Collector`; `traded`, `traded_notional` and
            `fees` are sums over its fills.
        equity: rows of EQUITY_POINT.
        beginning: the beginning of the run; by default nothing was before.
    """
    units = _Units(instrument)
    shown, ordered = _bars_frame(units, bars, first), _orders_frame(units, orders, all_bars)
    refused = _table(_REFUSALS, refusals["time"], {**refusals, "side": _sides(refusals["side"])})
    return Frames(
        instrument=instrument,
        bars=shown,
        decisions=_decisions_frame(shown, decision, ordered, refused),
        orders=ordered,
        fills=_fills_frame(units, fills),
        round_trips=_round_trips_frame(instrument, units, trips),
        equity=_equity_frame(units, equity),
        refusals=_since(refused, beginning),
        breaker=_breaker_frame(breaker),
        alerts=_table(_ALERTS, alerts["time"], alerts),
        gaps=_table(_GAPS, gaps["time"], {**gaps, "missing": _whole(gaps["last_id"]) - _whole(gaps["first_id"]) + 1}),
        operator=_table(_OPERATOR, operator["time"], operator),
        beginning=beginning,
    )


def _since(frame: pd.DataFrame, beginning: Beginning) -> pd.DataFrame:
    """Return the rows of a frame since the run began."""
    return frame[frame.index >= pd.Timestamp(beginning.time, unit="ms", tz="UTC")] if beginning.time else frame


# --- units -----------------------------------------------------------------------------------------------------------


class _Units:
    """Converts the integers of an instrument to the floats nearest to the exact decimals."""

    def __init__(self, instrument: Instrument) -> None:
        self._tick = instrument.tick_size.as_integer_ratio()
        self._step = instrument.step_size.as_integer_ratio()
        self._ticklot = Decimal(instrument.tick_size * instrument.step_size).as_integer_ratio()

    def prices(self, ticks: Any) -> Floats:
        return _scaled(ticks, self._tick)

    def prices_if_any(self, ticks: Any) -> Floats:
        """Return prices, NaN for 0."""
        return np.where(_whole(ticks) != 0, self.prices(ticks), np.nan)

    def quantities(self, lots: Any) -> Floats:
        return _scaled(lots, self._step)

    def notionals(self, ticklots: Any) -> Floats:
        return _scaled(ticklots, self._ticklot)

    def averages(self, ticklots: Any, lots: Any) -> Floats:
        """Return notional / quantity as prices; NaN where the quantity is 0."""
        numerator, denominator = self._tick
        whole, shares = _whole(ticklots) * float(numerator), _whole(lots) * float(denominator)
        averages: Floats = np.divide(whole, shares, out=np.full(len(whole), np.nan), where=shares != 0)
        return averages


def _scaled(values: Any, unit: tuple[int, int]) -> Floats:
    # A single division of whole numbers rounds only once: 3 ticks of 0.1 are 0.3, not 0.30000000000000004.
    scaled: Floats = _whole(values) * float(unit[0]) / unit[1]
    return scaled


def _whole(column: Any) -> Int64s:
    return np.asarray(column, dtype=np.int64)


def _times(milliseconds: Any) -> pd.DatetimeIndex:
    """Convert milliseconds UTC to timestamps; NaT for 0 and NEVER."""
    given = _whole(milliseconds)
    values = np.where((given > 0) & (given < NEVER), given, np.iinfo(np.int64).min)
    return pd.DatetimeIndex(values.view("datetime64[ms]"), name="time").tz_localize("UTC")


def to_milliseconds(times: Iterable[Any]) -> Int64s:
    """Convert timestamps to milliseconds UTC."""
    index = pd.DatetimeIndex(list(times)) if not isinstance(times, pd.DatetimeIndex | pd.Series) else times
    return np.asarray(pd.DatetimeIndex(index).as_unit("ms").asi8)


def words(names: Sequence[str], numbers: Any) -> Any:
    """Return a column of texts by their positions in a list."""
    return pd.array(list(names), dtype="str").take(np.asarray(numbers, dtype=np.intp))


_SIDES = ("", Side.BUY.name, Side.SELL.name)
"""By sign; -1 is the last one."""


def _sides(signs: Any) -> Any:
    return words(_SIDES, np.sign(_whole(signs)) % 3)


# --- frames ----------------------------------------------------------------------------------------------------------


def _table(schema: Mapping[str, str], times: Any, columns: Columns) -> pd.DataFrame:
    """Make a frame whose columns have the schema's types even where there are no rows."""
    data = {
        name: _times(columns[name]) if kind == _TIME else pd.array(columns[name], dtype=kind)
        for name, kind in schema.items()
    }
    return pd.DataFrame(data).set_index(_times(times))


def _bars_frame(units: _Units, columns: Columns, first: int) -> pd.DataFrame:
    whole = {name: _whole(column) for name, column in columns.items()}
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
        "close_reason": words(_CLOSE_REASONS, whole["close_reason"]),
        "tainted": whole["tainted"].astype(np.bool_),
    }
    return _table(_BARS, closed, table)


_CLOSE_REASONS = [reason.name for reason in CloseReason]


def _decisions_frame(
    bars: pd.DataFrame, decision: Columns, orders: pd.DataFrame, refusals: pd.DataFrame
) -> pd.DataFrame:
    nothing = np.zeros(len(bars), dtype=np.int64)
    table: dict[str, Any] = {
        "bar": bars["bar"].to_numpy(),
        "close": bars["close"].to_numpy(),
        "ready": np.asarray(decision.get("ready", nothing), dtype=np.bool_),
        "signal": _sides(decision.get("signal", nothing)),
        "outcome": pd.array(_outcomes(bars["bar"].to_numpy(), orders, refusals), dtype="str"),
    }
    table |= {name: decision[name] for name in sorted(decision) if name not in ("ready", "signal")}
    return pd.DataFrame(table, index=bars.index)


def _outcomes(bars: Int64s, orders: pd.DataFrame, refusals: pd.DataFrame) -> npt.NDArray[np.object_]:
    """Return what happened to each bar's signal; an entry is shown rather than a refusal."""
    outcome = np.full(len(bars), "", dtype=object)
    first = int(bars[0]) if len(bars) else 0
    entries = orders[orders["purpose"] == Purpose.ENTRY.name]
    for source, name, beginning in ((refusals, "code", "refused: "), (entries, "status", "entry ")):
        place = source["bar"].to_numpy() - first
        is_shown = (place >= 0) & (place < len(bars))
        for at, word in zip(place[is_shown].tolist(), source[name][is_shown].tolist(), strict=True):
            outcome[at] = beginning + word
    return outcome


def _orders_frame(units: _Units, columns: Columns, all_bars: Columns) -> pd.DataFrame:
    trigger, traded = (_whole(columns[name]) for name in ("trigger_price", "traded"))
    notional, side = _whole(columns["traded_notional"]), _whole(columns["side"])
    reference = np.where(trigger != 0, trigger, _closes_at_decisions(columns, all_bars))
    is_known = (reference != 0) & (traded != 0)
    table: dict[str, Any] = {
        **columns,
        "side": _sides(side),
        "quantity": units.quantities(columns["quantity"]),
        "price": units.prices_if_any(columns["price"]),
        "trigger_price": units.prices_if_any(trigger),
        "filled": units.quantities(columns["filled"]),
        "average_price": units.averages(notional, traded),
        "reference_price": units.prices_if_any(reference),
        "slippage": np.where(is_known, units.notionals(side * (reference * traded - notional)), np.nan),
        "fees": _costs(columns["fees"]),
    }
    return _table(_ORDERS, columns["time"], table)


def _closes_at_decisions(orders: Columns, all_bars: Columns) -> Int64s:
    """Return the close of the bar that decided each order, else the last close before it; 0 where there is none."""
    bar, closes = _whole(orders["bar"]), _whole(all_bars["close"])
    newest = np.searchsorted(_whole(all_bars["close_time"]), _whole(orders["time"]), side="right") - 1
    is_ours = np.asarray(orders["purpose"]) != FOREIGN
    at = np.where(bar >= 0, bar, np.where(is_ours, newest, -1))
    has_bar = (at >= 0) & (at < len(closes))
    return np.where(has_bar, np.append(closes, 0)[np.where(has_bar, at, -1)], 0)


def _costs(paid: Any) -> Floats:
    """Convert paid amounts to money; costs are negative in all frames."""
    costs: Floats = -_whole(paid) / MONEY
    return costs


def _fills_frame(units: _Units, columns: Columns) -> pd.DataFrame:
    price, quantity = _whole(columns["price"]), _whole(columns["quantity"])
    table: dict[str, Any] = {
        **columns,
        "side": _sides(columns["side"]),
        "price": units.prices(price),
        "quantity": units.quantities(quantity),
        "notional": units.notionals(price * quantity),
        "fee": _costs(columns["fee"]),
        "realised": _whole(columns["realised"]) / MONEY,
    }
    return _table(_FILLS, columns["time"], table)


def _round_trips_frame(instrument: Instrument, units: _Units, columns: Columns) -> pd.DataFrame:
    opened, closed, quantity = (_whole(columns[name]) for name in ("opened_at", "closed_at", "quantity"))
    entry, stop = (_whole(columns[name]) for name in ("entry_notional", "stop_price"))
    money = {name: _whole(columns[name]) / MONEY for name in ("realised", "funding", "net")}
    money["fees"] = _costs(columns["fees"])
    risk = at_risk(columns, instrument.money_per_ticklot)
    table = {
        "id": columns["id"],
        "side": words(("", "LONG", "SHORT"), np.sign(_whole(columns["side"])) % 3),
        "opened": opened,
        "closed": closed,
        "minutes": (closed - opened) / 60_000,
        "bar": columns["bar_number"],
        "quantity": units.quantities(quantity),
        "entry_price": np.where(quantity != 0, units.averages(entry, quantity), 0.0),
        "exit_price": units.averages(columns["exit_notional"], quantity),
        "stop_price": units.prices_if_any(stop),
        "take_profit_price": units.prices_if_any(columns["take_profit_price"]),
        **money,
        "at_risk": risk,
        "r_multiple": money["net"] / risk,
        "exit_reason": columns["exit_reason"],
    }
    return _table(_ROUND_TRIPS, closed, table)


def _equity_frame(units: _Units, points: Rows) -> pd.DataFrame:
    equity = points["wallet"] + points["unrealised"]
    drawdown = equity - np.maximum.accumulate(equity) if len(equity) else equity
    columns = {
        "wallet": points["wallet"] / MONEY,
        "unrealised": points["unrealised"] / MONEY,
        "equity": equity / MONEY,
        "drawdown": drawdown / MONEY,
        "position": units.quantities(points["position"]),
        "valued_at": words(("last", "mark"), points["at_mark"]),
    }
    return _table(_EQUITY, points["time"], columns)


def _breaker_frame(columns: Columns) -> pd.DataFrame:
    unit = np.array([1 if rule in COUNTED else MONEY for rule in columns["rule"]], dtype=np.int64)
    table = {**columns, **{name: _whole(columns[name]) / unit for name in ("measure", "limit")}}
    return _table(_BREAKER, columns["time"], table)
