"""Trades become volume bars: one compiled loop, used for one trade at a time and for ten million.

`VolumeBarAggregator.process` is what live trading, replay and research call; `until_close` is its step. Ordinary trades
(the next id, the same day, the bar stays open) run through a tight loop in `_absorb`; every other trade (a gap, a
duplicate, a new day, the trade that reaches the threshold) goes through `_take`, which is complete for any trade. All
integers: ticks, lots, ticklots, ms UTC, so that volume is conserved exactly.

The state is one row of a structured array, changed in place. A restart from any saved state gives the same bars.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt
from numba import types

from voltrade.bar_rules import BAR_RULES, BASE, COUNT, QUOTE, STRIDE, bar_rules
from voltrade.compiled import Record, Rows, compile_for, compiled, prefetch, record_dtype, restored, rows_of
from voltrade.config import BarSettings
from voltrade.errors import DataError
from voltrade.model import BAR, DAY_MS, NEVER, BarResumePoint, Bools, CloseReason, Instrument, Int64s, Trades

THRESHOLD = int(CloseReason.THRESHOLD)
DAY_END = int(CloseReason.DAY_END)


PREFETCH_DISTANCE = 192
"""Trades from the one that is folded to the one whose memory is asked for: ten million trades fit in no cache."""

_MOST_BARS_BY_ONE_TRADE = 10_000_000

MOST_BARS = 2**62
"""More bars than any block closes."""

FEW_BARS = 64
"""Up to here the bars of a block are copied out of a buffer that is used again."""


AGGREGATOR = record_dtype(
    [
        ("bar", BAR),  # the open bar; it is empty while its volume is 0
        ("progress", np.int64),  # towards the threshold, in its unit; for quote with the overshoot carried in
        ("day_end", np.int64),  # first millisecond of the next UTC day
        ("last_trade_id", np.int64),  # -1 before the first trade
        ("last_price", np.int64),
        ("last_time", np.int64),  # latest trade time seen
        ("skipped_invalid", np.int64),
        ("skipped_duplicate", np.int64),
        ("gaps", np.int64),
        ("count", np.int64),  # closed bars in the buffer
        ("missing_rows", np.int64),  # rows that the buffer lacks for the next trade, else 0
    ]
)


COLUMNS = tuple(types.Array(kind, 1, "C", readonly=True) for kind in (types.int64,) * 4 + (types.bool_,))
"""Columns of trades: id, price, quantity, time, buyer_is_maker. A read-only signature takes writable arrays too."""


@compiled
def _close(bars: Rows, state: Record, reason: int, threshold: int) -> None:
    """Move the open bar to the buffer and begin an empty one."""
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
    """Cut at the first trade of a UTC day: close the open bar short, and start everything from zero."""
    if state.bar.volume > 0:
        _close(bars, state, DAY_END, 0)
    day = time // DAY_MS
    state.bar.day = day
    state.bar.number = 0
    state.bar.tainted = False
    state.day_end = (day + 1) * DAY_MS
    state.progress = 0


@compiled
def _add(bar: Record, trade_id: int, price: int, lots: int, time: int, buyer_is_maker: bool) -> None:
    """Put lots of a trade into the open bar."""
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
    """What a whole trade adds to the progress of its bar."""
    if unit == BASE:
        return quantity
    if unit == QUOTE:
        return price * quantity
    return 1


@compiled
def _is_broken(price: int, quantity: int, rules: Record) -> bool:
    """Whether a trade can't be: nothing traded, a price beyond the symbol's filter, or a notional beyond 64 bits."""
    if price <= 0 or quantity <= 0 or price > rules.max_price:
        return True
    return bool(quantity > rules.usual_quantity and quantity > rules.max_notional // price)


@compiled
def _lots_until_close(rules: Record, progress: int, price: int, quantity: int) -> int:
    """How many of a trade's lots the open bar takes: all, or up to and including the lot that reaches the threshold."""
    room: int = rules.threshold - progress
    if rules.unit == BASE:
        return min(quantity, room)
    if rules.unit == QUOTE:
        return min(quantity, max(1, (room + price - 1) // price))
    return quantity


@compiled
def _take(
    trade_id: int, price: int, quantity: int, time: int, buyer_is_maker: bool, rules: Record, state: Record, bars: Rows
) -> bool:
    """Process one trade of any kind. False, with nothing changed but `missing_rows`, where the buffer lacks room."""
    if trade_id <= state.last_trade_id:
        state.skipped_duplicate += 1
        return True
    follows = trade_id == state.last_trade_id + 1
    if _is_broken(price, quantity, rules):
        state.skipped_invalid += 1
        if follows:  # nothing is missing; but an id from a broken row must not make later trades look like duplicates
            state.last_trade_id = trade_id
        return True

    weight = _weight(rules.unit, price, quantity)
    if state.count + 2 > len(bars) or state.progress + weight >= 2 * rules.threshold:
        most_bars = 1 + (state.progress + weight) // rules.threshold
        if state.count + most_bars > len(bars):
            state.missing_rows = most_bars
            return False

    bar = state.bar
    jumped = state.last_trade_id >= 0 and not follows
    if jumped:
        state.gaps += 1
        bar.tainted = True
    if rules.daily and time >= state.day_end:
        _begin_day(bars, state, time)
        bar.tainted = jumped

    bar.trade_count += 1  # once, in the bar of its first lot
    if rules.unit == COUNT:
        state.progress += 1
    while quantity > 0:
        lots = _lots_until_close(rules, state.progress, price, quantity)
        _add(bar, trade_id, price, lots, time, buyer_is_maker)
        quantity -= lots
        if rules.unit != COUNT:
            state.progress += _weight(rules.unit, price, lots)
        if state.progress >= rules.threshold:
            _close(bars, state, THRESHOLD, rules.threshold)

    state.last_trade_id = trade_id
    state.last_price = price
    state.last_time = max(state.last_time, time)
    return True


@compiled
def _absorb(
    ids: Int64s,
    prices: Int64s,
    quantities: Int64s,
    times: Int64s,
    buyer_is_maker: Bools,
    start: int,
    end: int,
    due: int,
    rules: Record,
    state: Record,
) -> int:
    """Process ordinary trades into the open bar, which is not empty; return the first trade that is for `_take`.

    Only a faster way to do what `_take` does. Strides of trades have no branch inside, so that they become vector
    instructions; a stride in which anything is out of the ordinary, or that would close the bar, is gone through one by
    one, up to that trade.
    """
    bar = state.bar
    unit, max_price, max_quantity = rules.unit, rules.max_price, rules.usual_quantity
    time_limit = min(due, state.day_end) if rules.daily else due
    room = rules.threshold - state.progress
    high, low, last_time = bar.high, bar.low, state.last_time
    volume, bought, notional = bar.volume, bar.taker_buy_volume, bar.notional
    next_id = state.last_trade_id + 1
    at = start
    while at + STRIDE <= end:
        for row in range(at + PREFETCH_DISTANCE, at + PREFETCH_DISTANCE + STRIDE, 8):  # 8 rows to a line of the cache
            for column in (ids, prices, quantities, times):
                prefetch(column, row)
        stride = slice(at, at + STRIDE)  # views of a fixed length are what makes the compiler use vectors
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
        if not ordinary or weight >= room:
            break
        room -= weight
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
        if not ordinary or weight >= room:
            break
        room -= weight
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
        state.progress = rules.threshold - room
        state.last_trade_id = next_id - 1
        state.last_price = prices[at - 1]
        state.last_time = last_time
    return at


@compiled
def until_close(
    ids: Int64s,
    prices: Int64s,
    quantities: Int64s,
    times: Int64s,
    buyer_is_maker: Bools,
    start: int,
    end: int,
    due: int,
    rules: Record,
    state: Record,
    bars: Rows,
) -> int:
    """Process trades from `start` up to the first that closes a bar; return the index of the first trade not folded.

    Stops earlier at `end`, before the first trade at or after the time `due`, and before a trade for which `bars` has
    no room (`state.missing_rows` then says how many rows it may need).
    """
    count = state.count
    state.missing_rows = 0
    at = start
    while at < end and state.count == count:
        if state.bar.volume > 0:
            at = _absorb(ids, prices, quantities, times, buyer_is_maker, at, end, due, rules, state)
        if at == end or times[at] >= due:
            break
        if not _take(ids[at], prices[at], quantities[at], times[at], buyer_is_maker[at], rules, state, bars):
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
    enough: int,
    rules: Rows,
    state: Rows,
    bars: Rows,
    closing_rows: Int64s,
) -> int:
    """Process trades from `start` until `bars` holds `enough`, noting which trade closed each; stop where the step
    does.

    Return the first trade not folded.
    """
    at, open_end = start, state[0]
    count = open_end.count - 1
    while count < open_end.count < enough:
        count = open_end.count
        at = until_close(ids, prices, quantities, times, buyer_is_maker, at, len(ids), due, rules[0], open_end, bars)
        closing_rows[count : open_end.count] = at - 1
    return at


@cache
def _aggregate_compiled() -> Callable[..., int]:
    """`_aggregate`, compiled when the first aggregator is made."""
    records = (rows_of(BAR_RULES), rows_of(AGGREGATOR), rows_of(BAR))
    loop: Callable[..., int] = compile_for(
        _aggregate, types.int64(*COLUMNS, *(types.int64,) * 3, *records, types.int64[::1])
    )
    return loop


def columns(trades: Trades) -> tuple[npt.NDArray[Any], ...]:
    """Return the columns of a block as compiled code takes them.

    Raises:
        DataError: a column has another type (floats could hold NaN) or another length.
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
    return np.zeros(FEW_BARS, BAR), np.zeros(FEW_BARS, np.int64)


def grown(rows: npt.NDArray[Any], count: int, missing: int) -> npt.NDArray[Any]:
    """Return a buffer with the first `count` rows and room for at least `missing` more.

    Raises:
        DataError: one trade would close an absurd number of bars.
    """
    if missing > _MOST_BARS_BY_ONE_TRADE:
        raise DataError(f"a trade must close at most {_MOST_BARS_BY_ONE_TRADE} bars, would close {missing}")
    larger = np.zeros(max(2 * len(rows), count + missing), rows.dtype)
    larger[:count] = rows[:count]
    return larger


class VolumeBarAggregator:
    """Folds trades into volume bars; keeps only the open bar.

    Attributes:
        state: one row of AGGREGATOR.
        next_row: row of the last block's first trade that was not folded.
        closing_rows: for each bar that the last block closed, the row of the trade that closed it.
    """

    def __init__(self, settings: BarSettings, instrument: Instrument) -> None:
        self.instrument = instrument
        self.rules = bar_rules(settings, instrument)
        self.state = np.zeros(1, AGGREGATOR)
        self.state["last_trade_id"] = -1
        self._loop = _aggregate_compiled()
        self._block: Trades | None = None
        """The last block, whose columns are checked once however often it is gone on with."""
        self.next_row = 0
        self._buffer, self._closing_rows = _buffers()
        self.closing_rows = _NO_ROWS

    def process(self, trades: Trades, start: int = 0, due: int = NEVER, enough: int = MOST_BARS) -> Rows:
        """Process a block of trades from `start` and return the bars it closed, as rows of BAR in their order.

        Stops after the trade that closed the last of `enough` bars, and before the first trade at or after the time
        `due` (ms UTC). However trades are cut into blocks, the bars are the same.

        Raises:
            DataError: a column of the block has the wrong type or length.
        """
        if trades is not self._block:
            self._columns, self._block = columns(trades), trades
        at, state = start, self.state
        while True:
            at = self._loop(*self._columns, at, due, enough, self.rules, state, self._buffer, self._closing_rows)
            if at == len(trades) or not (missing := int(state["missing_rows"][0])):
                break
            # As many more as trades have closed so far, and some: copying a full buffer over and over costs more.
            count = int(state["count"][0])
            expected = count * (len(trades) - at) // max(at - start, 1) * 5 // 4
            more = max(missing, min(expected, len(trades)))
            self._buffer = grown(self._buffer, count, more)
            self._closing_rows = grown(self._closing_rows, count, more)
            state["missing_rows"] = 0
        self.next_row = at
        return self._closed()

    def _closed(self) -> Rows:
        """Give away buffers that hold many bars, copy out of those that hold few."""
        count = int(self.state["count"][0])
        if count == 0:
            self.closing_rows = _NO_ROWS
            return _NO_BARS
        bars, self.closing_rows = self._buffer[:count], self._closing_rows[:count]
        self.state["count"] = 0
        if count < FEW_BARS:
            self.closing_rows = self.closing_rows.copy()
            return restored(BAR, bars.tobytes())
        self._buffer, self._closing_rows = _buffers()
        return bars

    def begin_at(self, phase: BarResumePoint) -> None:
        """Go on from where a day's bars stand. The open bar is dropped; the next one is tainted, since it is cut."""
        state = self.state[0]
        bar = state["bar"]
        for name in ("volume", "taker_buy_volume", "notional", "trade_count"):
            bar[name] = 0
        bar["day"], bar["number"], bar["tainted"] = phase.day, phase.number, True
        state["progress"], state["day_end"] = phase.progress, (phase.day + 1) * DAY_MS
        state["last_trade_id"] = phase.first_id - 1

    @property
    def skipped_invalid(self) -> int:
        """Trades without a positive price and quantity, or beyond what the symbol allows."""
        return int(self.state["skipped_invalid"][0])

    @property
    def skipped_duplicate(self) -> int:
        """Trades whose id is not after the last."""
        return int(self.state["skipped_duplicate"][0])

    @property
    def gaps(self) -> int:
        """How often the ids jumped."""
        return int(self.state["gaps"][0])

    def state_bytes(self) -> bytes:
        """Return the whole state; `restore` goes on from it with the same bars."""
        return self.state.tobytes()

    def restore(self, saved: bytes) -> None:
        """Go on from `state_bytes` of an aggregator with the same settings.

        Raises:
            DataError: not a saved state.
        """
        if len(saved) != AGGREGATOR.itemsize:
            raise DataError(f"a saved state must be {AGGREGATOR.itemsize} bytes, was {len(saved)}")
        self.state = restored(AGGREGATOR, saved)
