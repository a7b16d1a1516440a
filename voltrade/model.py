"""The data types of the trading path: instruments, trades, bars, events, commands and notes.

All of them are frozen. Inside the program a price is an integer number of ticks, a quantity an integer number of lots
(steps), notional their exact product ("ticklots"), money an integer of 1e-8 of the quote asset, and time an integer of
milliseconds since 1970 UTC. Only `Instrument` converts these to and from the decimal texts that the exchange uses.

`TradingCore.handle` takes events and returns outputs: commands, which are sent to the exchange, and notes, which are
stored in the journal. Both are listed at the end of the file.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, fields, replace
from decimal import ROUND_HALF_EVEN, Decimal
from enum import IntEnum, StrEnum
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from voltrade.errors import DataError

MONEY = 100_000_000
"""Units of money in 1 of the quote asset, and units of a rate in 1: both count in 1e-8."""

NEVER = np.iinfo(np.int64).max
"""A time that is never reached."""

OUR_ORDERS = "vt-"
"""The client order ids of voltrade begin with this."""

MINUTE_MS, HOUR_MS, DAY_MS = 60_000, 3_600_000, 86_400_000

Int64s = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]


def money(text: str | int | Decimal) -> int:
    """Convert an amount of the quote asset to units of 1e-8, exactly.

    Raises:
        DataError: the amount has more than eight decimals.
    """
    scaled = Decimal(text) * MONEY
    units = int(scaled)
    if units != scaled:
        raise DataError(f"an amount has at most 8 decimals, was {text}")
    return units


def money_text(units: int) -> str:
    """Format money as the exchange does: `-123456789` is `-1.23456789`."""
    return format(Decimal(units).scaleb(-8), "f")


def moment_text(milliseconds: int) -> str:
    """Format a time in ms UTC as `2026-01-05 12:00:00 UTC`; 0 or less gives an empty text."""
    return f"{np.datetime64(milliseconds // 1000, 's')} UTC".replace("T", " ", 1) if milliseconds > 0 else ""


def storable(text: str) -> str:
    """Escape the lone surrogates of a text, which come from bytes that are not UTF-8, so that UTF-8 can encode it."""
    return text.encode(errors="backslashreplace").decode()


def printable(value: object) -> str:
    """Return a value as text with `?` for unprintable characters, safe for terminals and messages."""
    return "".join(character if character.isprintable() else "?" for character in str(value))


# --- terms of the exchange ------------------------------------------------------------------------------------------


class Side(IntEnum):
    """Direction; the value is the sign of the quantity."""

    BUY = 1
    SELL = -1

    @property
    def opposite(self) -> Side:
        return Side(-self.value)


class OrderType(StrEnum):
    MARKET = "MARKET"
    LIMIT = "LIMIT"
    STOP = "STOP"
    STOP_MARKET = "STOP_MARKET"
    TAKE_PROFIT = "TAKE_PROFIT"
    TAKE_PROFIT_MARKET = "TAKE_PROFIT_MARKET"
    TRAILING_STOP_MARKET = "TRAILING_STOP_MARKET"

    @property
    def is_conditional(self) -> bool:
        """Whether the order is an algo order, which waits for its trigger."""
        return self not in (OrderType.MARKET, OrderType.LIMIT)

    @property
    def is_limit(self) -> bool:
        """Whether the order, or the order that it triggers, has a limit price."""
        return self in (OrderType.LIMIT, OrderType.STOP, OrderType.TAKE_PROFIT)


class TimeInForce(StrEnum):
    GTC = "GTC"
    IOC = "IOC"
    FOK = "FOK"
    GTX = "GTX"


class WorkingType(StrEnum):
    CONTRACT_PRICE = "CONTRACT_PRICE"
    MARK_PRICE = "MARK_PRICE"


class Purpose(StrEnum):
    """Why an order exists; the letter is part of its client order id."""

    ENTRY = "e"
    STOP = "s"
    TAKE_PROFIT = "t"
    EXIT = "x"


class Outcome(StrEnum):
    """What is known of a request. An UNKNOWN outcome is looked up until it is known; the request is not sent again."""

    ACCEPTED = "ACCEPTED"
    REFUSED = "REFUSED"
    UNKNOWN = "UNKNOWN"


class CloseReason(IntEnum):
    """Why a volume bar closed."""

    OPEN = 0
    THRESHOLD = 1
    DAY_END = 2


@dataclass(frozen=True, slots=True)
class Instrument:
    """A symbol's filters from exchangeInfo, and conversions between decimals and integers.

    Quantities are lots, `min_notional` is money, `max_price` is ticks, and `multiplier_up`, `multiplier_down` and
    `market_take_bound` are fractions.
    """

    symbol: str
    base_asset: str
    quote_asset: str
    tick_size: Decimal
    step_size: Decimal
    min_quantity: int
    max_quantity: int
    market_max_quantity: int
    min_notional: int
    multiplier_up: Decimal
    multiplier_down: Decimal
    market_take_bound: Decimal
    max_price: int
    status: str = "TRADING"
    source: str = ""
    """Where the filters come from; results show it."""

    def __post_init__(self) -> None:
        unit = self.tick_size * self.step_size * MONEY
        if self.tick_size <= 0 or self.step_size <= 0 or unit != int(unit) or unit < 1:
            raise DataError(f"{self.symbol}: tick x step must be a positive multiple of 1e-8, was {unit / MONEY}")

    @property
    def money_per_ticklot(self) -> int:
        """Return the money of one lot at a price of one tick."""
        return int(self.tick_size * self.step_size * MONEY)

    def ticks(self, price: str | Decimal) -> int:
        """Convert a price to ticks, exactly.

        Raises:
            DataError: the price is not a multiple of the tick.
        """
        return self._multiple(price, self.tick_size, "price", "tick")

    def lots(self, quantity: str | Decimal) -> int:
        """Convert a quantity to lots, exactly.

        Raises:
            DataError: the quantity is not a multiple of the step.
        """
        return self._multiple(quantity, self.step_size, "quantity", "step")

    def in_units(self, tick_size: Decimal, step_size: Decimal) -> Instrument:
        """Return the same filters in units of which tick and step are whole multiples.

        Prices and quantities are then counted in these units; what may be sent stays the same.
        """
        ticks, steps = int(self.tick_size / tick_size), int(self.step_size / step_size)
        lots = {name: getattr(self, name) * steps for name in ("min_quantity", "max_quantity", "market_max_quantity")}
        return replace(self, tick_size=tick_size, step_size=step_size, max_price=self.max_price * ticks, **lots)

    def _multiple(self, text: str | Decimal, unit: Decimal, name: str, rule: str) -> int:
        ratio = Decimal(text) / unit
        count = int(ratio)
        if count != ratio:
            raise DataError(f"{self.symbol}: {name} must be a multiple of the {rule} {unit}, was {text}")
        return count

    def price(self, ticks: int) -> Decimal:
        return ticks * self.tick_size

    def quantity(self, lots: int) -> Decimal:
        return lots * self.step_size

    def notional(self, ticklots: int) -> int:
        """Convert ticklots to money."""
        return ticklots * self.money_per_ticklot

    def value_at_mark(self, lots: int, mark_e8: int) -> int:
        """Return the money of a quantity at a mark price in 1e-8 of the quote asset; rounded half to even, once."""
        exact = Decimal(lots) * self.step_size * mark_e8
        return int(exact.to_integral_value(rounding=ROUND_HALF_EVEN))


# --- market data ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, eq=False)
class Trades:
    """A block of aggTrades of one symbol in the order of their ids, as columns of equal length.

    Where `buyer_is_maker` is true, the taker sold. In live trading a block has one trade.
    """

    symbol: str
    id: Int64s
    price: Int64s
    """Ticks."""
    quantity: Int64s
    """Lots."""
    time: Int64s
    """Milliseconds UTC."""
    buyer_is_maker: Bools

    @property
    def columns(self) -> tuple[npt.NDArray[Any], ...]:
        """All columns, in the order of the fields."""
        return self.id, self.price, self.quantity, self.time, self.buyer_is_maker

    def __len__(self) -> int:
        return len(self.id)

    def __getitem__(self, rows: slice | Bools) -> Trades:
        columns = self.id[rows], self.price[rows], self.quantity[rows], self.time[rows], self.buyer_is_maker[rows]
        return Trades(self.symbol, *columns)

    def first(self, count: int) -> Trades:
        """Return the first so many trades: the block itself where it has no more."""
        return self if count == len(self.id) else self[:count]

    def rows(self) -> Iterator[tuple[int, int, int, int, bool]]:
        """Yield each trade as a row of `from_rows`."""
        return zip(*(column.tolist() for column in self.columns), strict=True)

    @staticmethod
    def from_rows(symbol: str, rows: Iterable[tuple[int, int, int, int, bool]]) -> Trades:
        """Build a block from `(id, price in ticks, quantity in lots, time in ms, buyer is maker)` rows."""
        columns: list[tuple[Any, ...]] = list(zip(*rows, strict=True)) or [()] * 5
        kinds = (np.int64, np.int64, np.int64, np.int64, np.bool_)
        return Trades(symbol, *(np.array(column, kind) for column, kind in zip(columns, kinds, strict=True)))

    @staticmethod
    def join(blocks: list[Trades]) -> Trades:
        """Concatenate blocks of one symbol."""
        if len(blocks) == 1:
            return blocks[0]
        columns = zip(*(block.columns for block in blocks), strict=True)
        return Trades(blocks[0].symbol, *(np.concatenate(parts) for parts in columns))


@dataclass(frozen=True, slots=True, eq=False)
class Marks:
    """Mark prices of one symbol as columns in the order of time: ms UTC, and 1e-8 of the quote asset for one coin."""

    time: Int64s
    price_e8: Int64s


@dataclass(frozen=True, slots=True, eq=False)
class Funding:
    """Funding rates of one symbol as columns in the order of time: ms UTC, and 1e-8. At a positive rate longs pay."""

    time: Int64s
    rate_e8: Int64s
    interval_ms: Int64s | None = None
    """The interval of each row; 0, or None for all, where it isn't known; below 0 where no regular rate is due."""
    special_e8: Int64s | None = None
    """Special rates that are paid beside; None where there are none."""


@dataclass(frozen=True, slots=True)
class VolumeBar:
    """A closed volume bar: prices in ticks, volumes in lots, notional in ticklots, times in ms UTC."""

    symbol: str
    day: int
    """Days since 1970 of the UTC day that the bar is anchored to; 0 for continuous bars."""
    number: int
    """Position of the bar after its anchor, from 0. With the anchor `utc_day` a bar has the same number live, after a
    restart and in research, where the day is known from midnight on; else it counts from the first trade loaded."""
    open_time: int
    close_time: int
    first_trade_id: int
    last_trade_id: int
    open: int
    high: int
    low: int
    close: int
    volume: int
    taker_buy_volume: int
    notional: int
    trade_count: int
    close_reason: CloseReason
    tainted: bool


def _row_of(wholes: Iterable[str], **others: type) -> np.dtype[Any]:
    """Return a record dtype with integer fields, then fields of other types."""
    layout = [*((name, np.int64) for name in wholes), *others.items()]
    return np.dtype((np.record, np.dtype(layout, align=True)))


BAR = _row_of((field.name for field in fields(VolumeBar)[1:-2]), close_reason=np.int8, tainted=np.bool_)
"""Record dtype of a bar in compiled code: the fields and units of `VolumeBar`, without the symbol."""


@dataclass(frozen=True, slots=True)
class Signal:
    """A rule's request to enter at the close of a bar.

    `bar_number` counts the bars of the run from 0; `atr` is in the quote asset for one coin.
    """

    time: int
    symbol: str
    side: Side
    bar_number: int
    price: int
    """Close of the bar, in ticks."""
    atr: float


@dataclass(frozen=True, slots=True)
class MarkPrice:
    """A mark price of the exchange, in 1e-8 of the quote asset for one coin, with the next funding."""

    symbol: str
    time: int
    price_e8: int
    funding_rate_e8: int = 0
    next_funding_time: int = 0
    is_last_price: bool = False
    """Whether it is the last trade's price, since the exchange's mark price is missing in its records or its stream."""


@dataclass(frozen=True, slots=True)
class Segment:
    """The next part of a tape: trades up to the first that the exchange reacts to, then at most one mark price.

    Or trades up to the arrival of an order at the exchange, without a mark price.
    """

    trades: Trades
    mark: MarkPrice | None
    end: bool
    """Whether the tape ends after this segment."""
    arrival: int | None = None
    """Time at which an order arrives after the trades, ms UTC."""


@dataclass(frozen=True, slots=True)
class FeedGap:
    """Trade ids that the stream skipped, and how many of these trades were fetched by REST."""

    symbol: str
    time: int
    first_id: int
    last_id: int
    filled: int


# --- orders ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class OrderRequest:
    """An order as it is sent to the exchange. Conditional types go to the algo endpoint. Unused numbers are 0."""

    symbol: str
    client_order_id: str
    side: Side
    order_type: OrderType
    quantity: int
    price: int = 0
    """Limit price in ticks."""
    trigger_price: int = 0
    """Trigger in ticks, for conditional types."""
    time_in_force: TimeInForce = TimeInForce.GTC
    reduce_only: bool = False
    close_position: bool = False
    working_type: WorkingType = WorkingType.CONTRACT_PRICE
    price_protect: bool = False
    """Whether a conditional order waits while mark and last price are far apart."""
    activation_price: int = 0
    """Ticks; the price from which a trailing stop trails. 0: from the price at which it is placed."""
    callback_bps: int = 0
    """Callback rate of a trailing stop in basis points: the distance from the best price at which it triggers."""

    @property
    def common_fields(self) -> dict[str, Any]:
        """Return the fields that every `OrderUpdate` or `AlgoUpdate` of the order repeats."""
        names = ("symbol", "client_order_id", "side", "order_type", "quantity", "reduce_only", "close_position")
        return {name: getattr(self, name) for name in names}


@dataclass(frozen=True, slots=True)
class OrderUpdate:
    """State of an ordinary order as the exchange reports it (ORDER_TRADE_UPDATE, or an order object of REST).

    When `trade_id` is not 0 it also carries one fill (`last_quantity` at `last_price`, `fee`, `realised`).
    """

    time: int
    symbol: str
    client_order_id: str
    order_id: int
    side: Side
    order_type: OrderType
    status: str
    """NEW, PARTIALLY_FILLED, FILLED, CANCELED, EXPIRED, EXPIRED_IN_MATCH or REJECTED."""
    execution: str
    """NEW, TRADE, CANCELED, EXPIRED, CALCULATED or AMENDMENT; empty for an order object of REST."""
    quantity: int
    filled: int
    """Cumulative filled quantity, lots."""
    filled_notional: int = 0
    """Cumulative, ticklots; 0 where the exchange does not report it."""
    price: int = 0
    time_in_force: TimeInForce = TimeInForce.GTC
    reduce_only: bool = False
    close_position: bool = False
    trade_id: int = 0
    last_quantity: int = 0
    last_price: int = 0
    fee: int = 0
    """Money paid for this fill, of the quote asset; of another asset what it was worth."""
    fee_asset: str = ""
    """What it was paid in; empty where that is not told."""
    realised: int = 0
    """Money realised by this fill, before its fee."""
    is_maker: bool = False
    expiry_reason: str = "0"


@dataclass(frozen=True, slots=True)
class AlgoUpdate:
    """State of a conditional order at the algo endpoint (ALGO_UPDATE, or an algo object of REST)."""

    time: int
    symbol: str
    client_order_id: str
    algo_id: int
    side: Side
    order_type: OrderType
    status: str
    """NEW, TRIGGERING, TRIGGERED, FINISHED, CANCELED, EXPIRED or REJECTED."""
    quantity: int
    trigger_price: int
    order_id: int = 0
    """Id of the ordinary order that it triggered; 0 before."""
    filled: int = 0
    reduce_only: bool = False
    close_position: bool = False
    working_type: WorkingType = WorkingType.CONTRACT_PRICE
    reason: str = ""


@dataclass(frozen=True, slots=True)
class PositionReport:
    """A position as the exchange reports it; `quantity` is signed lots, `entry_price` a decimal text."""

    symbol: str
    quantity: int
    entry_price: str
    unrealised: int = 0
    leverage: int = 0
    margin_type: str = ""


@dataclass(frozen=True, slots=True)
class AccountUpdate:
    """A change of the wallet and of positions (ACCOUNT_UPDATE)."""

    time: int
    reason: str
    """ORDER, FUNDING_FEE, DEPOSIT, WITHDRAW, ..."""
    wallet: int
    """Wallet balance of the quote asset after the change, money."""
    change: int = 0
    """Change of the wallet apart from profit and fees: funding, a deposit or a withdrawal; money."""
    symbol: str = ""
    """Symbol of a funding payment; empty where the exchange names no symbol, and for other changes."""
    positions: tuple[PositionReport, ...] = ()


@dataclass(frozen=True, slots=True)
class Reply:
    """The response to one command."""

    time: int
    action: Literal["submit", "cancel", "lookup"]
    symbol: str
    client_order_id: str
    algo: bool
    outcome: Outcome
    code: int = 0
    """Binance's error code, or 0."""
    text: str = ""
    order: OrderUpdate | None = None
    algo_order: AlgoUpdate | None = None


@dataclass(frozen=True, slots=True)
class Income:
    """One change of the quote asset's wallet, as the account's income history lists it."""

    time: int
    kind: str
    """REALIZED_PNL, COMMISSION, FUNDING_FEE, TRANSFER, INSURANCE_CLEAR, ..."""
    amount: int
    """Money."""
    symbol: str = ""


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The account as REST reports it; requested at the start, after every reconnect of the user stream, from time to
    time, and where something is in doubt."""

    time: int
    symbol: str
    wallet: int
    available: int
    taker_fee_e8: int
    maker_fee_e8: int
    leverage: int
    margin_type: str
    """`isolated` or `cross`."""
    hedge_mode: bool
    position: PositionReport
    orders: tuple[OrderUpdate, ...] = ()
    """Open ordinary orders."""
    algo_orders: tuple[AlgoUpdate, ...] = ()
    fills: tuple[OrderUpdate, ...] = ()
    """Fills after the last agreed trade id; without one the latest 1,000, each as an order update."""
    multi_assets: bool = False
    """Whether Multi-Assets Mode is on."""
    max_notional: int = 0
    """Largest position at this leverage, money: the bracket's. 0 where it isn't known."""
    income: tuple[Income, ...] | None = None
    """Changes of the wallet, where they were read to explain why it differs from our books."""


@dataclass(frozen=True, slots=True)
class AccountSummary:
    """What a regular comparison of the account reads; only where it differs from our books a `Snapshot` is taken."""

    time: int
    symbol: str
    wallet: int
    position: int
    """Signed lots."""
    leverage: int
    margin_type: str
    hedge_mode: bool
    multi_assets: bool = False
    orders: tuple[str, ...] = ()
    """Client order ids of the open orders of both kinds, without conditional ones that have triggered."""
    max_notional: int = 0
    """As in a `Snapshot`."""


@dataclass(frozen=True, slots=True)
class Timer:
    """The time is reached at which the core wanted to be called."""

    time: int


OperatorAction = Literal[
    "pause", "resume", "reduce", "flatten", "halt", "protect", "caretake", "acknowledge", "abandon"
]
"""What an operator can order; `abandon` ends a session whose exchange is gone."""


NOTEBOOK_LOST = "NOTEBOOK_LOST"
"""Reason of the command that a lost notebook gives."""


@dataclass(frozen=True, slots=True)
class Operator:
    """A command of the operator, or of a stop policy, to the running session."""

    time: int
    """When it was given, ms; once the loop has taken it, when that was."""
    action: OperatorAction
    reason: str
    final: bool = False
    """Whether the session ends after the action."""


@dataclass(frozen=True, slots=True)
class StreamStatus:
    """A stream connected or disconnected."""

    time: int
    stream: Literal["market", "user"]
    up: bool


@dataclass(frozen=True, slots=True)
class BarResumePoint:
    """State of a day's bars before the first trade of a run, where the earlier trades of the day are not given.

    The bar that is open at this point misses its earlier trades: it is tainted, and contains only the trades that
    follow.
    """

    time: int
    symbol: str
    day: int
    """Days since 1970."""
    number: int
    """Number of bars that closed on this day."""
    progress: int
    """What the open bar has of the threshold: lots, ticklots or trades."""
    first_id: int
    """Id of the next trade."""


@dataclass(frozen=True, slots=True)
class History:
    """Trades before the start of a session, which warm up bars and indicators."""

    trades: Trades
    resume_point: BarResumePoint | None = None
    """State of the day's bars before the first trade; None where the bars begin with that trade."""
    doubt: str = ""
    """Why that state may differ from the one that all trades of the day make; empty where it does not."""


@dataclass(frozen=True, slots=True)
class ResumeState:
    """State at the end of the account's last run, restored after the warm-up and before the first snapshot."""

    time: int
    state: str
    """JSON of `TradingCore.state`."""
    head: str
    """Head hash of the journal of that run."""


@dataclass(frozen=True, slots=True)
class EngineRestarted:
    """The engine was started again within its run: responses to requests in flight will not arrive."""

    time: int


@dataclass(frozen=True, slots=True)
class Filters:
    """A symbol's filters and status as they are now, where they have changed, in the units of the run.

    A run keeps the tick and step that it began with as its units: its journal and books are in them, and so is all that
    the exchange tells of earlier orders. Only what is sent must obey these filters.
    """

    time: int
    symbol: str
    largest_market_order: int
    """Lots."""
    largest_order: int = 0
    """Lots of a limit order."""
    least_quantity: int = 0
    """Lots."""
    least_notional: int = 0
    """Money."""
    price_step: int = 1
    """Prices that are sent must be multiples of so many ticks of the run."""
    quantity_step: int = 1
    """Quantities that are sent must be multiples of so many lots of the run."""
    is_finer: bool = False
    """Whether tick or step are finer than the run's units, so that prices or quantities are read to the nearest."""
    status: str = "TRADING"


@dataclass(frozen=True, slots=True)
class Trouble:
    """A problem of the machine, such as a full disk, has begun or ended; it becomes an alert."""

    time: int
    code: str
    text: str


UserDataEvent = OrderUpdate | AlgoUpdate | AccountUpdate
"""Events of the user data stream."""
Event = (
    Trades | MarkPrice | FeedGap | UserDataEvent | Reply | Snapshot | AccountSummary | Timer | Operator | StreamStatus
    | BarResumePoint | ResumeState | EngineRestarted | Filters | Trouble
)  # fmt: skip


# --- outputs of the core: commands ----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class OrderIntent:
    """Decision to send an order. It is written to disk before the request is sent, and keeps its client order id."""

    time: int
    order: OrderRequest
    purpose: Purpose
    round_trip: int
    reason: str
    bar_number: int = -1
    """Number of the bar that gave the signal; -1 for orders without a bar."""


@dataclass(frozen=True, slots=True)
class CancelOrder:
    time: int
    symbol: str
    client_order_id: str
    algo: bool
    reason: str


@dataclass(frozen=True, slots=True)
class LookupOrder:
    """Query the state of an order whose outcome is unknown or overdue."""

    time: int
    symbol: str
    client_order_id: str
    algo: bool
    reason: str


USER_STREAM_UP = "USER_STREAM_UP"
"""Reason of a `TakeSnapshot`: the user stream is connected again, so that events may have been missed."""


@dataclass(frozen=True, slots=True)
class TakeSnapshot:
    time: int
    symbol: str
    reason: str


Command = OrderIntent | CancelOrder | LookupOrder | TakeSnapshot
Answer = Reply | Snapshot | AccountSummary
"""What the exchange answers to a command."""


# --- outputs of the core: notes -------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Refusal:
    """A signal that gave no order; `code` is that of the gate that refused it."""

    time: int
    symbol: str
    bar_number: int
    side: Side
    code: str
    detail: str


@dataclass(frozen=True, slots=True)
class BreakerChange:
    """A rule of the circuit breaker tripped or was released."""

    time: int
    rule: str
    mode: str
    """ACTIVE, REDUCING or HALTED after the change."""
    action: str
    """block, cancel, flatten or resume."""
    measure: int
    limit: int
    release_at: int
    """Milliseconds UTC, or NEVER where the operator must resume."""
    reason: str = ""
    """Why trading is halted or goes on: the operator's reason, or that of our own rules. Empty for measured rules."""


@dataclass(frozen=True, slots=True)
class RoundTrip:
    """A closed position with its fills and costs.

    Quantities are lots, notionals ticklots, other amounts money, prices ticks.
    """

    id: int
    symbol: str
    side: Side
    opened_at: int
    closed_at: int
    bar_number: int
    quantity: int
    entry_notional: int
    exit_notional: int
    realised: int
    fees: int
    funding: int
    net: int
    """realised - fees + funding."""
    exit_reason: str
    stop_price: int
    take_profit_price: int
    entry_trade_ids: tuple[int, ...] = ()
    exit_trade_ids: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class EquityPoint:
    """Equity of the account, noted at every fill, and at mark prices once a minute; amounts are money."""

    time: int
    symbol: str
    wallet: int
    unrealised: int
    equity: int
    position: int
    """Signed lots."""
    valued_at: Literal["mark", "last"]


EQUITY_POINT = _row_of(("time", "wallet", "unrealised", "position"), at_mark=np.bool_)
"""Record dtype of an `EquityPoint`, without the symbol and the fields that follow from the others."""

EQUITY_EVERY_MS = MINUTE_MS
"""A valuation is left out if it differs from the one before neither in wallet and position nor in the minute: by wall
clock there is one each second."""


@dataclass(frozen=True, slots=True)
class Alert:
    """Something that the operator should know."""

    time: int
    code: str
    text: str


Note = Refusal | BreakerChange | RoundTrip | EquityPoint | Alert
Output = Command | Note
