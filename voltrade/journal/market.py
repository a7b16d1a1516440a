"""Trades and mark prices as the bytes of a journal's row: columns of differences, each as few bytes as it takes."""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from voltrade.errors import DamagedJournal, JournalError
from voltrade.model import Int64s, MarkPrice, Trades

MARKET = "Market"
"""Kind of rows with trades and mark prices, in the order in which the core took them."""

_FORMAT = 2
_RAW = -15
"""Deflate without header and checksum, which the row's hash makes superfluous."""
_MOST_BYTES = 10
"""A number of 64 bits takes at most so many bytes of 7 bits."""

_SHIFTS = 7 * np.arange(_MOST_BYTES, dtype=np.uint64)
_WIDER = np.uint64(1) << _SHIFTS[1:]
"""The smallest number that takes two bytes, three, and so on."""

_Numbers = npt.NDArray[np.uint64]
_Mark = tuple[int, int, int, int, int]


def encode_trades(trades: Trades) -> bytes:
    """Return a block of trades as compressed columns."""
    return _encode(trades, [], [])


def decode_trades(body: bytes) -> Trades:
    """Return the block of trades that `encode_trades` wrote, exactly.

    Raises:
        DamagedJournal: the bytes aren't such a block.
    """
    return _decode("Trades", body)[0]


def encode_market(facts: Iterable[Trades | MarkPrice]) -> bytes:
    """Return trades and mark prices of one symbol as compressed columns; at least one is a mark price.

    Raises:
        JournalError: a mark price has a field that is no whole number of 64 bits.
    """
    blocks, marks, rows, count = list[Trades](), list[MarkPrice](), list[_Mark](), 0
    for fact in facts:
        if isinstance(fact, Trades):
            blocks.append(fact)
            count += len(fact)
        else:
            marks.append(fact)
            rows.append((count, fact.time, fact.price_e8, fact.funding_rate_e8, fact.next_funding_time))
    trades = Trades.join(blocks) if blocks else Trades.from_rows(marks[0].symbol, [])
    try:
        return _encode(trades, list(np.array(rows, dtype=np.int64).T), [mark.is_last_price for mark in marks])
    except (OverflowError, TypeError, ValueError) as error:
        raise JournalError(f"MarkPrice: can't be stored: {error}") from None


def decode_market(body: bytes) -> tuple[Trades | MarkPrice, ...]:
    """Return what `encode_market` wrote; trades between two mark prices are one block.

    Raises:
        DamagedJournal: the bytes aren't such a row.
    """
    trades, columns, flags = _decode(MARKET, body)
    facts, done = list[Trades | MarkPrice](), 0
    for place, time, price_e8, rate_e8, funding_time, flag in zip(*columns, flags, strict=True):
        facts += [trades[done:place]] if place > done else []
        facts.append(MarkPrice(trades.symbol, time, price_e8, rate_e8, funding_time, flag))
        done = place
    return (*facts, trades[done:]) if done < len(trades) else tuple(facts)


# --- one layout for both ----------------------------------------------------------------------------------------------


def _encode(trades: Trades, marks: Sequence[Int64s], flags: Sequence[bool]) -> bytes:
    symbol = trades.symbol.encode()
    columns = (trades.id, trades.price, trades.quantity, trades.time, *marks)
    numbers = _written(np.concatenate([_differences(column) for column in columns]))
    bits = np.packbits(np.append(trades.buyer_is_maker, np.array(flags, dtype=np.bool_))).tobytes()
    head = _written(np.array([_FORMAT, len(symbol), len(trades), len(flags)], dtype=np.uint64))
    deflate = zlib.compressobj(9, zlib.DEFLATED, _RAW)
    return head + symbol + deflate.compress(numbers + bits) + deflate.flush()


def _decode(kind: str, body: bytes) -> tuple[Trades, list[list[int]], list[bool]]:
    """Return trades, the columns of mark prices, and their flags."""
    try:
        (version, length, trades, marks), start = _read(body, 4, 0)
        if version != _FORMAT:
            raise ValueError(f"the format must be {_FORMAT}, was {version}")
        symbol = body[start : start + int(length)].decode()
        packed = zlib.decompress(body[start + int(length) :], _RAW)
        columns, at = _columns(packed, [int(trades)] * 4 + [int(marks)] * (5 if kind == MARKET else 0))
        flags = np.frombuffer(packed, np.uint8, offset=at) if at < len(packed) else np.zeros(0, np.uint8)
        if len(flags) != (int(trades) + int(marks) + 7) // 8:
            raise ValueError(f"{trades} trades and {marks} mark prices can't take {len(packed)} bytes")
    except (ValueError, zlib.error) as error:
        raise DamagedJournal(f"{kind}: the bytes can't be read: {error}") from None
    bits = np.unpackbits(flags, count=int(trades) + int(marks)).astype(np.bool_)
    ids, prices, quantities, times = columns[:4]
    block = Trades(symbol, ids, prices, quantities, times, bits[: int(trades)])
    return block, [column.tolist() for column in columns[4:]], bits[int(trades) :].tolist()


def _columns(packed: bytes, counts: Sequence[int]) -> tuple[list[Any], int]:
    """Return columns of so many numbers each, and where they end."""
    zigzag, end = _read(packed, sum(counts), 0)
    differences = ((zigzag >> np.uint64(1)) ^ np.negative(zigzag & np.uint64(1))).view(np.int64)
    columns, at = [], 0
    for count in counts:
        columns.append(np.cumsum(differences[at : at + count], dtype=np.int64))
        at += count
    return columns, end


def _differences(column: Int64s) -> _Numbers:
    """Return the differences of a column, small ones as small numbers whatever their sign.

    They wrap around at 64 bits, and wrap back when they are summed: exact for every value.
    """
    difference = np.array(column, dtype=np.int64)
    difference[1:] -= column[:-1]
    return ((difference << 1) ^ (difference >> 63)).view(np.uint64)


def _written(numbers: _Numbers) -> bytes:
    """Return numbers as bytes of 7 bits, the lowest first; all but a number's last byte have the eighth bit set."""
    widths = np.searchsorted(_WIDER, numbers, side="right")[:, np.newaxis] + 1
    place = np.arange(int(widths.max(initial=1)))
    septets = ((numbers[:, np.newaxis] >> _SHIFTS[: len(place)]) & np.uint64(0x7F)).astype(np.uint8)
    septets |= (place < widths - 1) * np.uint8(0x80)
    return septets[place < widths].tobytes()


def _read(data: bytes, count: int, start: int) -> tuple[_Numbers, int]:
    """Return the next so many numbers that `_written` wrote, and where they end.

    Raises:
        ValueError: there are fewer, or one is too long.
    """
    # As many bytes as they can take at most, so that what follows is not looked through.
    septets = np.frombuffer(data[start : start + _MOST_BYTES * count], np.uint8)
    ends = np.flatnonzero(septets < 0x80)[:count]
    if len(ends) < count:
        raise ValueError(f"must have {count} numbers, has {len(ends)}")
    if not count:
        return np.zeros(0, dtype=np.uint64), start
    starts = np.concatenate(([0], ends[:-1] + 1))
    widths = ends - starts + 1
    if int(widths.max()) > _MOST_BYTES:
        raise ValueError(f"a number must take at most {_MOST_BYTES} bytes")
    place = np.arange(ends[-1] + 1) - np.repeat(starts, widths)
    parts = (septets[: len(place)] & np.uint8(0x7F)).astype(np.uint64) << _SHIFTS[place]
    return np.bitwise_or.reduceat(parts, starts), start + int(ends[-1]) + 1
