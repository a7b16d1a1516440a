"""The facts that flow through voltrade: instruments, trades, bars, events in, commands and notes out.

Everything here is a frozen value. Inside the program a price is an integer number of ticks, a quantity an integer
number of lots (steps), notional their exact product ("ticklots"), money an integer of 1e-8 of the quote asset, and
time an integer of milliseconds since 1970 UTC. `Instrument` is the one place that converts to and from what people
and the wire write.

Events enter `TradingCore.handle`, which returns outputs: commands (to be carried to the exchange) and notes (facts for
the journal). Both are listed at the end of the file.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, fields
from decimal import ROUND_HALF_EVEN, Decimal
from enum import IntEnum, StrEnum
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from voltrade.errors import DataError

MONEY = 100_000_000
"""Units of money in one unit of the quote asset, and of a rate in 1: both are written in 1e-8."""

NEVER = np.iinfo(np.int64).max
"""A time that does not come."""

HOUR_MS, DAY_MS = 3_600_000, 86_400_000

Int64s = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]


def money(text: str | int | Decimal) -> int:
    """Convert an amount of the quote asset to units of 1e-8, exactly.

    Raises:
        DataError: more than eight decimals, or not a number.
    """
    scaled = Decimal(text) * MONEY
    units = int(scaled)
    if units != scaled:
        raise DataError(f"an amount has at most 8 decimals, was {text}")
    return units


def money_text(units: int) -> str:
    """Write money as the wire does: `-123456789` is `-1.23456789`."""
    return format(Decimal(units).scaleb(-8), "f")


def moment_text(milliseconds: int) -> str:
    """Write a time, ms UTC, for people: `2026-01-05 12:00:00 UTC`; empty for none."""
    return f"{np.datetime64(milliseconds // 1000, 's')} UTC".replace("T", " ", 1) if milliseconds > 0 else ""


def storable(text: str) -> str:
    """Return a text as UTF-8 can hold it: a lone surrogate, such as a byte that was no UTF-8 leaves, as its escape."""
    return text.encode(errors="backslashreplace").decode()


def printable(value: object) -> str:
    """Return a value as a text that can do nothing to a terminal or a phone: `?` for what can't be printed."""
    return "".join(character if character.isprintable() else "?" for character in str(value))


# --- words of the exchange ------------------------------------------------------------------------------------------


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
        """Whether the order waits at the algo endpoint for its trigger."""
        return self not in (OrderType.MARKET, OrderType.LIMIT)

    @property
    def is_limit(self) -> bool:
        """Whether the order has a limit price: one of its own, or of the order that it becomes."""
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
    """Why an order exists; the letter stands in its client order id."""

    ENTRY = "e"
    STOP = "s"
    TAKE_PROFIT = "t"
    EXIT = "x"


class Outcome(StrEnum):
    """What is known of a request. UNKNOWN is looked up until it is known, never re-sent, never timed out."""

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
    """A symbol's filters, and the conversions between texts and integers that follow from them.

    Quantities are lots, `min_notional` is money, the rates are fractions. Values come from exchangeInfo.
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
    source: str = ""
    """Where the filters come from, for the results that must name it."""

    def __post_init__(self) -> None:
        unit = self.tick_size * self.step_size * MONEY
        if self.tick_size <= 0 or self.step_size <= 0 or unit != int(unit) or unit < 1:
            raise DataError(f"{self.symbol}: tick x step must be a positive multiple of 1e-8, was {unit / MONEY}")

    @property
    def money_per_ticklot(self) -> int:
        """Money of one lot at a price of one tick."""
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
        """Money of an exact product of ticks and lots."""
        return ticklots * self.money_per_ticklot

    def value_at_mark(self, lots: int, mark_e8: int) -> int:
        """Money of a quantity at a mark price in 1e-8 of the quote asset; rounded half to even, once."""
        exact = Decimal(lots) * self.step_size * mark_e8
        return int(exact.to_integral_value(rounding=ROUND_HALF_EVEN))


# --- market data ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, eq=False)
class Trades:
    """A block of aggTrades of one symbol in the order of their ids, as columns of equal length.

    `buyer_is_maker` true means that the taker sold. A block of one is what live trading sees.
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
        """All columns, in their order."""
        return self.id, self.price, self.quantity, self.time, self.buyer_is_maker

    def __len__(self) -> int:
        return len(self.id)

    def __getitem__(self, rows: slice | Bools) -> Trades:
        return Trades(self.symbol, *(column[rows] for column in self.columns))

    def rows(self) -> Iterator[tuple[int, int, int, int, bool]]:
        """Yield each trade as `from_rows` takes it."""
        return zip(*(column.tolist() for column in self.columns), strict=True)

    @staticmethod
    def from_rows(symbol: str, rows: Iterable[tuple[int, int, int, int, bool]]) -> Trades:
        """Build a block from `(id, price in ticks, quantity in lots, time in ms, buyer is maker)` rows."""
        columns: list[tuple[Any, ...]] = list(zip(*rows, strict=True)) or [()] * 5
        kinds = (np.int64, np.int64, np.int64, np.int64, np.bool_)
        return Trades(symbol, *(np.array(column, kind) for column, kind in zip(columns, kinds, strict=True)))

    @staticmethod
    def join(blocks: list[Trades]) -> Trades:
        """Put blocks of one symbol one after the other."""
        if len(blocks) == 1:
            return blocks[0]
        columns = zip(*(block.columns for block in blocks), strict=True)
        return Trades(blocks[0].symbol, *(np.concatenate(parts) for parts in columns))


@dataclass(frozen=True, slots=True, eq=False)
class Marks:
    """Mark prices of one symbol as columns, in the order of time: ms UTC, 1e-8 of the quote asset for one coin."""

    time: Int64s
    price_e8: Int64s


@dataclass(frozen=True, slots=True, eq=False)
class Funding:
    """Funding rates of one symbol as columns, in the order of time: ms UTC, 1e-8. Longs pay a positive one."""

    time: Int64s
    rate_e8: Int64s


@dataclass(frozen=True, slots=True)
class VolumeBar:
    """A closed volume bar: prices in ticks, volumes in lots, notional in ticklots, times in ms UTC."""

    symbol: str
    day: int
    """Days since 1970 for bars anchored to the UTC day, else 0."""
    number: int
    """Position of the bar after its anchor, from 0: the same bar live, after a restart and in research."""
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
    """The layout of a fact as a row of an array: whole numbers, then fields of other types."""
    layout = [*((name, np.int64) for name in wholes), *others.items()]
    return np.dtype((np.record, np.dtype(layout, align=True)))


BAR = _row_of((field.name for field in fields(VolumeBar)[1:-2]), close_reason=np.int8, tainted=np.bool_)
"""A bar as a row of an array, as compiled code folds it: the fields and units of `VolumeBar`, without the symbol."""


@dataclass(frozen=True, slots=True)
class Signal:
    """A bar's decision that an entry is wanted. `bar_number` counts the bars of the run; `atr` is in quote per coin."""

    time: int
    symbol: str
    side: Side
    bar_number: int
    price: int
    """Close of the bar, ticks."""
    atr: float


@dataclass(frozen=True, slots=True)
class MarkPrice:
    """A mark price as the exchange states it, in 1e-8 of the quote asset for one coin."""

    symbol: str
    time: int
    price_e8: int
    funding_rate_e8: int = 0
    next_funding_time: int = 0


@dataclass(frozen=True, slots=True)
class Segment:
    """The next stretch of a tape: trades up to the first that the exchange acts on, then perhaps one mark price."""

    trades: Trades
    mark: MarkPrice | None
    end: bool
    """Whether the tape has nothing after it."""


@dataclass(frozen=True, slots=True)
class FeedGap:
    """Trade ids that the stream skipped, and how many of them REST could give."""

    symbol: str
    time: int
    first_id: int
    last_id: int
    filled: int


# --- orders ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class OrderRequest:
    """What is asked of the exchange. Conditional types go to the algo endpoint. Unused numbers are 0."""

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
    """Ticks; a trailing stop trails from there on. 0: from the price at which it is placed."""
    callback_bps: int = 0
    """Of a trailing stop: how far the price comes back from its best, in hundredths of a percent."""

    @property
    def stated(self) -> dict[str, Any]:
        """What an update of the order, ordinary or conditional, repeats of it."""
        names = ("symbol", "client_order_id", "side", "order_type", "quantity", "reduce_only", "close_position")
        return {name: getattr(self, name) for name in names}


@dataclass(frozen=True, slots=True)
class OrderUpdate:
    """State of an ordinary order as the exchange tells it (ORDER_TRADE_UPDATE, or an order object of REST).

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
    """NEW, TRADE, CANCELED, EXPIRED, CALCULATED, AMENDMENT; empty for an order object of REST."""
    quantity: int
    filled: int
    """Cumulative filled quantity, lots."""
    filled_notional: int = 0
    """Cumulative, ticklots; 0 where the exchange does not tell."""
    price: int = 0
    time_in_force: TimeInForce = TimeInForce.GTC
    reduce_only: bool = False
    close_position: bool = False
    trade_id: int = 0
    last_quantity: int = 0
    last_price: int = 0
    fee: int = 0
    """Money paid for this fill."""
    fee_asset: str = ""
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
    """The ordinary order that it became; 0 before."""
    filled: int = 0
    reduce_only: bool = False
    close_position: bool = False
    working_type: WorkingType = WorkingType.CONTRACT_PRICE
    reason: str = ""


@dataclass(frozen=True, slots=True)
class PositionReport:
    """A position as the exchange tells it; `quantity` is signed lots, `entry_price` a decimal text."""

    symbol: str
    quantity: int
    entry_price: str
    unrealised: int = 0
    leverage: int = 0
    margin_type: str = ""


@dataclass(frozen=True, slots=True)
class AccountUpdate:
    """Wallet and positions that changed (ACCOUNT_UPDATE)."""

    time: int
    reason: str
    """ORDER, FUNDING_FEE, DEPOSIT, WITHDRAW, ..."""
    wallet: int
    """Wallet balance of the quote asset, money."""
    change: int = 0
    """By how much that changed by what is no profit and no fee: funding, a deposit, a withdrawal; money."""
    symbol: str = ""
    """Whose funding it is; empty where the exchange does not say, or for the account's."""
    positions: tuple[PositionReport, ...] = ()


@dataclass(frozen=True, slots=True)
class Reply:
    """The answer to one command."""

    time: int
    action: Literal["submit", "cancel", "lookup"]
    symbol: str
    client_order_id: str
    algo: bool
    outcome: Outcome
    code: int = 0
    """Binance's code where it gave one, else 0."""
    text: str = ""
    order: OrderUpdate | None = None
    algo_order: AlgoUpdate | None = None


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The account as the exchange has it, asked for at start and on every reconnect of the user stream."""

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
    """Our trades since the last snapshot, each as an update with its fill."""
    multi_assets: bool = False
    """Whether margin is shared among assets."""


@dataclass(frozen=True, slots=True)
class Timer:
    """The time that the core asked to be woken at has come."""

    time: int


@dataclass(frozen=True, slots=True)
class Operator:
    """A person's, or a stop policy's, command to the running system."""

    time: int
    action: Literal["pause", "resume", "reduce", "flatten", "halt", "protect"]
    reason: str
    final: bool = False
    """Whether the session ends once the action is carried out."""


@dataclass(frozen=True, slots=True)
class StreamStatus:
    """A stream went up or down."""

    time: int
    stream: Literal["market", "user"]
    up: bool


@dataclass(frozen=True, slots=True)
class BarResumePoint:
    """Where a day's bars stood before the first trade that the core is given; what traded before is known in sum.

    The bar that is open then is cut: it is tainted, and holds only what comes.
    """

    time: int
    symbol: str
    day: int
    """Days since 1970."""
    number: int
    """Bars that the day has had."""
    progress: int
    """Of the open bar towards the threshold: lots or ticklots."""
    first_id: int
    """The trade that comes next."""


@dataclass(frozen=True, slots=True)
class History:
    """What a core is given before the first trade of its session."""

    trades: Trades
    phase: BarResumePoint | None = None
    """Where the day's bars stand before the first of the trades; None where they begin with it."""


@dataclass(frozen=True, slots=True)
class ResumeState:
    """What the account's last run left, taken over after the warm-up and before the account is asked for."""

    time: int
    state: str
    """JSON of `TradingCore.state`."""
    head: str
    """Head hash of that run's journal."""


@dataclass(frozen=True, slots=True)
class EngineRestarted:
    """The engine was started again within its run: answers to what was in flight will not come."""

    time: int


@dataclass(frozen=True, slots=True)
class Filters:
    """What the exchange's filters say now, read again after it had refused an order by them."""

    time: int
    symbol: str
    largest_market_order: int
    """Lots."""


@dataclass(frozen=True, slots=True)
class Trouble:
    """Something is wrong with the machine, or is right again: a person is told."""

    time: int
    code: str
    text: str


News = OrderUpdate | AlgoUpdate | AccountUpdate
"""What an exchange tells of itself."""
Event = (
    Trades | MarkPrice | FeedGap | News | Reply | Snapshot | Timer | Operator | StreamStatus | BarResumePoint
    | ResumeState | EngineRestarted | Filters | Trouble
)  # fmt: skip


# --- outputs of the core: commands ----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class OrderIntent:
    """Decision to send an order. It is on disk before the request leaves; same intent, same client order id."""

    time: int
    order: OrderRequest
    purpose: Purpose
    round_trip: int
    reason: str
    bar_number: int = -1
    """Sequence number of the bar that decided it, -1 where no bar did."""


@dataclass(frozen=True, slots=True)
class CancelOrder:
    time: int
    symbol: str
    client_order_id: str
    algo: bool
    reason: str


@dataclass(frozen=True, slots=True)
class LookupOrder:
    """Ask what became of an order whose outcome is unknown or overdue."""

    time: int
    symbol: str
    client_order_id: str
    algo: bool
    reason: str


@dataclass(frozen=True, slots=True)
class TakeSnapshot:
    time: int
    symbol: str
    reason: str


Command = OrderIntent | CancelOrder | LookupOrder | TakeSnapshot


# --- outputs of the core: notes -------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Refusal:
    """A signal that no order followed, and the gate that said no."""

    time: int
    symbol: str
    bar_number: int
    side: Side
    code: str
    detail: str


@dataclass(frozen=True, slots=True)
class BreakerChange:
    """The circuit breaker tripped, or let go."""

    time: int
    rule: str
    mode: str
    """ACTIVE, REDUCING or HALTED after the change."""
    action: str
    """block, cancel, flatten or resume."""
    measure: int
    limit: int
    resume_at: int
    """Milliseconds UTC, or NEVER where a person must resume."""


@dataclass(frozen=True, slots=True)
class RoundTrip:
    """A position's whole life: entry, fills, exits, costs. Lots, ticklots for notionals, money for the rest."""

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
    """What the account is worth, noted at every mark price and fill. Money."""

    time: int
    symbol: str
    wallet: int
    unrealised: int
    equity: int
    position: int
    """Signed lots."""
    valued_at: Literal["mark", "last"]


EQUITY = _row_of(("time", "wallet", "unrealised", "position"), at_mark=np.bool_)
"""An `EquityPoint` as a row of an array, without the symbol and what follows from the other fields."""


@dataclass(frozen=True, slots=True)
class Alert:
    """Something a person should know."""

    time: int
    code: str
    text: str


Note = Refusal | BreakerChange | RoundTrip | EquityPoint | Alert
Output = Command | Note
