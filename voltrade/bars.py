"""Volume bars from trades, in one compiled loop for single trades and for blocks of millions.

Sessions, replay and research call `VolumeBarAggregator.process`, whose step is `process_until_close`. Ordinary
trades (the next id, the same day, the bar remains open) are processed in a fast loop, `_add_ordinary_trades`. Every
other trade (a bar's first, a gap, a duplicate, a new day, the trade that reaches the threshold) is processed by
`_add_trade`, which accepts any trade. All numbers are integers (ticks, lots, ticklots, ms UTC), so that no volume is
lost or added.

The state is one row of a structured array, changed in place. After a restart from a saved state the bars are the same.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt
from numba import types

from voltrade.bar_spec import BAR_SPEC, BASE, COUNT, QUOTE, STRIDE, bar_spec
from voltrade.compiled import Record, Rows, compiled, prefetch, record_dtype, restored, rows_of
from voltrade.config import BarSettings
from voltrade.errors import DataError
from voltrade.model import BAR, DAY_MS, NEVER, BarResumePoint, Bools, CloseReason, Instrument, Int64s, Trades
from voltrade.plain_start import entry, is_plain

THRESHOLD = int(CloseReason.THRESHOLD)
DAY_END = int(CloseReason.DAY_END)


PREFETCH_DISTANCE = 192
"""Trades are prefetched this many ahead: a block of ten million trades doesn't fit into the CPU cache."""

_MOST_BARS_BY_ONE_TRADE = 10_000_000

NO_BAR_LIMIT = 2**62
"""More bars than any block can close."""

COPY_BELOW_BARS = 64
"""Fewer closed bars than this are returned as a copy, and the buffer is used again."""


AGGREGATOR = record_dtype(
    [
        ("bar", BAR),  # the open bar; it is empty while its volume is 0
        ("progress", np.int64),  # towards the threshold, in its unit; `quote` begins with the excess of the last bar
        ("day_end", np.int64),  # first millisecond of the next UTC day
        ("last_trade_id", np.int64),  # -1 before the first trade
        ("last_price", np.int64),
        ("last_time", np.int64),  # latest time of all trades, ms
        ("skipped_invalid", np.int64),
        ("skipped_duplicate", np.int64),
        ("gaps", np.int64),
        ("count", np.int64),  # closed bars in the buffer
        ("missing_rows", np.int64),  # rows that the buffer needs for the next trade; 0 if there is room
    ]
)


COLUMNS = tuple(types.Array(kind, 1, "C", readonly=True) for kind in (types.int64,) * 4 + (types.bool_,))
"""Numba types of the columns of `Trades`. A read-only type accepts writable arrays too."""


@compiled
def _close(bars: Rows, state: Record, reason: int, threshold: int) -> None:
    """Copy the open bar to the buffer and start an empty bar; the progress is reduced by `threshold`."""
    bar = state.bar
    bar.close_reason = reason
    bars[state.count] = bar
    state.count += 1
    state.progress -= threshold
    bar.number += 1
    bar.volume = 0
    bar.taker_buy_volume = 0
    bar.notional = 0
    bar.trade_count = 0
    bar.close_reason = 0
    bar.tainted = False


@compiled
def _begin_day(bars: Rows, state: Record, time: int) -> None:
    """Close the open bar at the first trade of a UTC day, and restart number and progress at 0."""
    if state.bar.volume > 0:
        _close(bars, state, DAY_END, 0)
    day = time // DAY_MS
    state.bar.day = day
    state.bar.number = 0
    state.bar.tainted = False
    state.day_end = (day + 1) * DAY_MS
    state.progress = 0


@compiled
def _add_lots(bar: Record, trade_id: int, price: int, lots: int, time: int, buyer_is_maker: bool) -> None:
    """Add lots of a trade to the open bar."""
    if bar.volume == 0:
        bar.open_time = time
        bar.first_trade_id = trade_id
        bar.open = price
        bar.high = price
        bar.low = price
    bar.close_time = time
    bar.last_trade_id = trade_id
    bar.high = max(bar.high, price)
    bar.low = min(bar.low, price)
    bar.close = price
    bar.volume += lots
    bar.notional += lots * price
    if not buyer_is_maker:
        bar.taker_buy_volume += lots


@compiled
def _weight(unit: int, price: int, quantity: int) -> int:
    """Return what a quantity adds to the progress of the open bar."""
    if unit == BASE:
        return quantity
    if unit == QUOTE:
        return price * quantity
    return 1


@compiled
def _is_invalid(price: int, quantity: int, spec: Record) -> bool:
    """Whether price or quantity is not positive, or the price or the notional is too large."""
    if price <= 0 or quantity <= 0 or price > spec.max_price:
        return True
    return bool(quantity > spec.usual_quantity and quantity > spec.max_notional // price)


@compiled
def _lots_until_close(spec: Record, progress: int, price: int, quantity: int) -> int:
    """Return how many lots of a trade go into the open bar: all, or up to the lot that reaches the threshold."""
    remaining: int = spec.threshold - progress
    if spec.unit == BASE:
        return min(quantity, remaining)
    if spec.unit == QUOTE:
        return min(quantity, max(1, (remaining + price - 1) // price))
    return quantity


@compiled
def _add_trade(
    trade_id: int, price: int, quantity: int, time: int, buyer_is_maker: bool, spec: Record, state: Record, bars: Rows
) -> bool:
    """Process one trade of any kind; return True. Without room in the buffer, only set `missing_rows`; return False."""
    if trade_id <= state.last_trade_id:
        state.skipped_duplicate += 1
        return True
    follows = trade_id == state.last_trade_id + 1
    if _is_invalid(price, quantity, spec):
        state.skipped_invalid += 1
        # Only the next id counts as seen: a wrong id of an invalid trade must not make later trades duplicates.
        if follows and state.last_trade_id >= 0:
            state.last_trade_id = trade_id
        return True

    weight = _weight(spec.unit, price, quantity)
    if state.count + 2 > len(bars) or state.progress + weight >= 2 * spec.threshold:
        most_bars = 1 + (state.progress + weight) // spec.threshold
        if state.count + most_bars > len(bars):
            state.missing_rows = most_bars
            return False

    bar = state.bar
    jumped = state.last_trade_id >= 0 and not follows
    if jumped:
        state.gaps += 1
        bar.tainted = True
    if spec.daily and time >= state.day_end:
        _begin_day(bars, state, time)
        bar.tainted = jumped

    bar.trade_count += 1  # a trade counts once, in the bar of its first lot
    if spec.unit == COUNT:
        state.progress += 1
    while quantity > 0:
        lots = _lots_until_close(spec, state.progress, price, quantity)
        _add_lots(bar, trade_id, price, lots, time, buyer_is_maker)
        quantity -= lots
        if spec.unit != COUNT:
            state.progress += _weight(spec.unit, price, lots)
        if state.progress >= spec.threshold:
            _close(bars, state, THRESHOLD, spec.threshold)

    state.last_trade_id = trade_id
    state.last_price = price
    state.last_time = max(state.last_time, time)
    return True


@compiled
def _add_ordinary_trades(
    ids: Int64s,
    prices: Int64s,
    quantities: Int64s,
    times: Int64s,
    buyer_is_maker: Bools,
    start: int,
    end: int,
    due: int,
    spec: Record,
    state: Record,
) -> int:
    """Add ordinary trades to the open bar, which is not empty; return the index of the first other trade, or `end`.

    The result is that of `_add_trade` for each of them. STRIDE trades at a time are added by a loop without branches,
    which compiles to vector instructions. A stride with a trade that isn't ordinary, or that would close the bar, is
    processed trade by trade up to that trade.
    """
    bar = state.bar
    unit, max_price, max_quantity = spec.unit, spec.max_price, spec.usual_quantity
    time_limit = min(due, state.day_end) if spec.daily else due
    remaining = spec.threshold - state.progress
    high, low, last_time = bar.high, bar.low, state.last_time
    volume, bought, notional = bar.volume, bar.taker_buy_volume, bar.notional
    next_id = state.last_trade_id + 1
    at = start
    while at + STRIDE <= end:
        for row in range(at + PREFETCH_DISTANCE, at + PREFETCH_DISTANCE + STRIDE, 8):  # a cache line has 8 rows
            for column in (ids, prices, quantities, times):
                prefetch(column, row)
        stride = slice(at, at + STRIDE)  # with views of fixed length the compiler uses vector instructions
        s_ids, s_prices, s_quantities = ids[stride], prices[stride], quantities[stride]
        s_times, s_maker = times[stride], buyer_is_maker[stride]
        s_volume, s_bought, s_notional, ordinary = 0, 0, 0, True
        s_high, s_low, s_time = high, low, last_time
        for row in range(STRIDE):
            price, quantity, time = s_prices[row], s_quantities[row], s_times[row]
            ordinary &= (s_ids[row] == next_id + row) & (time < time_limit)
            ordinary &= (price > 0) & (quantity > 0) & (price <= max_price) & (quantity <= max_quantity)
            s_volume += quantity
            s_notional += price * quantity
            s_bought += 0 if s_maker[row] else quantity
            s_high = max(s_high, price)
            s_low = min(s_low, price)
            s_time = max(s_time, time)
        weight = s_volume if unit == BASE else s_notional if unit == QUOTE else STRIDE
        if not ordinary or weight >= remaining:
            break
        remaining -= weight
        volume += s_volume
        bought += s_bought
        notional += s_notional
        high, low, last_time = s_high, s_low, s_time
        next_id += STRIDE
        at += STRIDE
    while at < end:
        price, quantity, time = prices[at], quantities[at], times[at]
        ordinary = (ids[at] == next_id) & (time < time_limit)
        ordinary &= (price > 0) & (quantity > 0) & (price <= max_price) & (quantity <= max_quantity)
        weight = quantity if unit == BASE else price * quantity if unit == QUOTE else 1
        if not ordinary or weight >= remaining:
            break
        remaining -= weight
        volume += quantity
        bought += 0 if buyer_is_maker[at] else quantity
        notional += price * quantity
        high, low, last_time = max(high, price), min(low, price), max(last_time, time)
        next_id += 1
        at += 1
    if at > start:
        bar.volume, bar.taker_buy_volume, bar.notional = volume, bought, notional
        bar.close_time = times[at - 1]
        bar.last_trade_id = next_id - 1
        bar.high, bar.low, bar.close = high, low, prices[at - 1]
        bar.trade_count += at - start
        state.progress = spec.threshold - remaining
        state.last_trade_id = next_id - 1
        state.last_price = prices[at - 1]
        state.last_time = last_time
    return at


@compiled
def process_until_close(
    ids: Int64s,
    prices: Int64s,
    quantities: Int64s,
    times: Int64s,
    buyer_is_maker: Bools,
    start: int,
    end: int,
    due: int,
    spec: Record,
    state: Record,
    bars: Rows,
) -> int:
    """Process trades from index `start` up to the first that closes a bar; return the index of the next trade.

    Stops earlier at index `end`, before the first trade at or after the time `due` (ms UTC), and before a trade for
    which `bars` has no room; `state.missing_rows` is then the number of rows that this trade may need.
    """
    count = state.count
    state.missing_rows = 0
    at = start
    while at < end and state.count == count:
        if state.bar.volume > 0:
            at = _add_ordinary_trades(ids, prices, quantities, times, buyer_is_maker, at, end, due, spec, state)
        if at == end or times[at] >= due:
            break
        if not _add_trade(ids[at], prices[at], quantities[at], times[at], buyer_is_maker[at], spec, state, bars):
            break
        at += 1
    return at


def _aggregate(
    ids: Int64s,
    prices: Int64s,
    quantities: Int64s,
    times: Int64s,
    buyer_is_maker: Bools,
    start: int,
    due: int,
    max_bars: int,
    spec: Rows,
    state: Rows,
    bars: Rows,
    closing_rows: Int64s,
) -> int:
    """Process trades until `bars` has `max_bars` bars or a step closes none; return the index of the next trade.

    `closing_rows` gets, for each bar, the index of the trade that closed it.
    """
    at, row = start, state[0]
    count = row.count - 1
    while count < row.count < max_bars:
        count = row.count
        at = process_until_close(ids, prices, quantities, times, buyer_is_maker, at, len(ids), due, spec[0], row, bars)
        closing_rows[count : row.count] = at - 1
    return at


def aggregate_loop() -> Callable[..., int]:
    """Return `_aggregate`, an `entry`."""
    return entry(_aggregate, _signature())  # type: ignore[no-any-return]


@cache
def _signature() -> Any:
    records = (rows_of(BAR_SPEC), rows_of(AGGREGATOR), rows_of(BAR))
    return types.int64(*COLUMNS, *(types.int64,) * 3, *records, types.int64[::1])


def columns(trades: Trades) -> tuple[npt.NDArray[Any], ...]:
    """Return the columns of a block as contiguous arrays for compiled code.

    Raises:
        DataError: a column has a wrong type (floats could contain NaN) or a wrong length.
    """
    given, shape = trades.columns, trades.id.shape
    for name, expected, column in zip(_COLUMN_NAMES, _COLUMN_DTYPES, given, strict=True):
        if column.dtype != expected or column.shape != shape:
            raise DataError(
                f"{name}: a column of trades must be {len(trades.id)} of {expected}, was {column.dtype} {column.shape}"
            )
    return tuple(column if column.flags.c_contiguous else np.ascontiguousarray(column) for column in given)


_COLUMN_NAMES = ("id", "price", "quantity", "time", "buyer_is_maker")
_COLUMN_DTYPES = (*(np.dtype(np.int64),) * 4, np.dtype(np.bool_))

_NO_BARS, _NO_ROWS = np.zeros(0, BAR), np.zeros(0, np.int64)


def _buffers() -> tuple[Rows, Int64s]:
    return np.zeros(COPY_BELOW_BARS, BAR), np.zeros(COPY_BELOW_BARS, np.int64)


def grown(rows: npt.NDArray[Any], count: int, missing: int) -> npt.NDArray[Any]:
    """Return a larger buffer with the first `count` rows and room for at least `missing` more.

    Raises:
        DataError: a single trade would close more than ten million bars.
    """
    if missing > _MOST_BARS_BY_ONE_TRADE:
        raise DataError(f"a trade must close at most {_MOST_BARS_BY_ONE_TRADE} bars, would close {missing}")
    larger = np.zeros(max(2 * len(rows), count + missing), rows.dtype)
    larger[:count] = rows[:count]
    return larger


class VolumeBarAggregator:
    """Aggregates trades to volume bars; keeps only the open bar.

    Attributes:
        state: one row of AGGREGATOR.
        next_row: index of the first trade of the last block that is not processed yet.
        closing_rows: for each bar that the last block closed, the index of the trade that closed it.
    """

    def __init__(self, settings: BarSettings, instrument: Instrument) -> None:
        self.instrument = instrument
        self.spec = bar_spec(settings, instrument)
        self.state = np.zeros(1, AGGREGATOR)
        self.state["last_trade_id"] = -1
        self.take_rules()
        self._block: Trades | None = None
        """The last block; its columns are checked only once."""
        self.next_row = 0
        self._buffer, self._closing_rows = _buffers()
        self.closing_rows = _NO_ROWS

    def take_rules(self) -> None:
        """Take the compiled rules if they were plain, and are compiled by now."""
        self._loop = aggregate_loop()

    @property
    def is_plain(self) -> bool:
        """Whether the rules are plain Python until they are compiled."""
        return is_plain(self._loop)

    def process(self, trades: Trades, start: int = 0, due: int = NEVER, max_bars: int = NO_BAR_LIMIT) -> Rows:
        """Process a block of trades from index `start` and return the bars that closed, as rows of BAR.

        Stops after the trade that closed the last of `max_bars` bars, and before the first trade at or after the time
        `due` (ms UTC). The bars don't depend on how trades are divided into blocks.

        Raises:
            DataError: a column of the block has the wrong type or length.
        """
        if trades is not self._block:
            self._columns, self._block = columns(trades), trades
        at, state = start, self.state
        while True:
            at = self._loop(*self._columns, at, due, max_bars, self.spec, state, self._buffer, self._closing_rows)
            if at == len(trades) or not (missing := int(state["missing_rows"][0])):
                break
            # Make room for the bars that the rest closes at the rate so far, plus a quarter: each copy takes time.
            count = int(state["count"][0])
            expected = count * (len(trades) - at) // max(at - start, 1) * 5 // 4
            more = max(missing, min(expected, len(trades), _MOST_BARS_BY_ONE_TRADE))
            self._buffer = grown(self._buffer, count, more)
            self._closing_rows = grown(self._closing_rows, count, more)
            state["missing_rows"] = 0
        self.next_row = at
        return self._closed()

    def _closed(self) -> Rows:
        """Return the closed bars: the buffer itself from COPY_BELOW_BARS bars on, else a copy."""
        count = int(self.state["count"][0])
        if count == 0:
            self.closing_rows = _NO_ROWS
            return _NO_BARS
        bars, self.closing_rows = self._buffer[:count], self._closing_rows[:count]
        self.state["count"] = 0
        if count < COPY_BELOW_BARS:
            self.closing_rows = self.closing_rows.copy()
            return restored(BAR, bars.tobytes())
        self._buffer, self._closing_rows = _buffers()
        return bars

    def continue_from(self, point: BarResumePoint) -> None:
        """Continue at a point within a day. The open bar is dropped; the next bar is tainted: its first trades are
        missing."""
        state = self.state[0]
        bar = state["bar"]
        for name in ("volume", "taker_buy_volume", "notional", "trade_count"):
            bar[name] = 0
        bar["day"], bar["number"], bar["tainted"] = point.day, point.number, True
        state["progress"], state["day_end"] = point.progress, (point.day + 1) * DAY_MS
        state["last_trade_id"] = point.first_id - 1

    @property
    def skipped_invalid(self) -> int:
        """Number of skipped trades whose price or quantity isn't positive, or is above the limits of the symbol."""
        return int(self.state["skipped_invalid"][0])

    @property
    def skipped_duplicate(self) -> int:
        """Number of skipped trades whose id isn't greater than the id of the last trade."""
        return int(self.state["skipped_duplicate"][0])

    @property
    def gaps(self) -> int:
        """Number of gaps found in the trade ids."""
        return int(self.state["gaps"][0])

    def state_bytes(self) -> bytes:
        """Return the whole state; an aggregator that restores it makes the same bars of the same trades."""
        return self.state.tobytes()

    def restore(self, saved: bytes) -> None:
        """Set the state to what `state_bytes` of an aggregator with the same settings returned.

        Raises:
            DataError: the length is not that of a state.
        """
        if len(saved) != AGGREGATOR.itemsize:
            raise DataError(f"a saved state must be {AGGREGATOR.itemsize} bytes, was {len(saved)}")
        self.state = restored(AGGREGATOR, saved)
