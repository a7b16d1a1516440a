"""Rows of the journal: facts as bytes, and the hash that chains each row to those before it."""

from __future__ import annotations

import hashlib
import json
import struct
import typing
import zlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
from pydantic import TypeAdapter, ValidationError
from pydantic_core import PydanticSerializationError

from voltrade.errors import DamagedJournal, JournalError
from voltrade.model import Event, Int64s, MarkPrice, Output, Trades, storable

Fact = TypeVar("Fact", bound=Event | Output)

MARKET = "Market"
"""Kind of rows with trades and mark prices, in the order in which the core took them."""

ADAPTERS: dict[str, TypeAdapter[Any]] = {
    fact.__name__: TypeAdapter(fact) for fact in typing.get_args(Event | Output) if fact is not Trades
}


@dataclass(frozen=True, slots=True)
class Row:
    """A row of the journal: position from 1, time in ms UTC, class name of the fact, its bytes, its hash."""

    seq: int
    time: int
    kind: str
    body: bytes
    hash: bytes

    @property
    def fact(self) -> Any:
        """The fact of the row: a value of `model`, or a dict for kinds that aren't in it."""
        return decode(self.kind, self.body)


def first_hash(identity: str) -> bytes:
    """Return the hash before row 1; it ties the chain to the journal's identity."""
    return hashlib.sha256(b"voltrade journal 1\0" + identity.encode()).digest()


def row_hash(previous: bytes, seq: int, time: int, kind: bytes, body: bytes) -> bytes:
    """Return the hash of a row: sha256 of previous hash, seq, time, length of kind, kind and body."""
    return hashlib.sha256(previous + struct.pack(">qqH", seq, time, len(kind)) + kind + body).digest()


def as_stored(fact: Fact) -> Fact:
    """Return a fact as the journal stores it: unchanged, unless one of its texts can't be encoded as UTF-8.

    To make a replay do the same, act on the fact that this returns.
    """
    adapter = ADAPTERS.get(type(fact).__name__)
    if adapter is None:
        return fact
    try:
        adapter.dump_json(fact, warnings=False)
        return fact
    except PydanticSerializationError:
        pass
    try:
        stored: Fact = adapter.validate_python(_storable(adapter.dump_python(fact, warnings=False)))
    except ValidationError:
        return fact  # another field is wrong, which `encode` will report
    return stored


def _storable(value: Any) -> Any:
    """Return plain values with every text in a form that UTF-8 can encode."""
    if type(value) is str:
        return storable(value)
    if isinstance(value, Mapping):
        return {_storable(name): _storable(part) for name, part in value.items()}
    return [_storable(part) for part in value] if isinstance(value, list | tuple) else value


def encode(fact: Event | Output) -> tuple[str, bytes]:
    """Return a fact's kind and its bytes; equal facts give equal bytes, and `decode` returns an equal fact.

    Raises:
        JournalError: a field doesn't have the type that the model declares, so the fact would not be restored as equal.
    """
    return encoded(fact)[:2]


def encoded(fact: Fact) -> tuple[str, bytes, Fact]:
    """Return a fact's kind, its bytes, and the fact as stored; see `encode` and `as_stored`."""
    kind = type(fact).__name__
    if isinstance(fact, Trades):
        return kind, encode_trades(fact), fact
    adapter = ADAPTERS.get(kind)
    if adapter is None:
        raise JournalError(f"kind: must be the name of a class in the model, was {kind}")
    try:
        body, fact = _dumped(adapter, fact)
        back = adapter.validate_json(body, strict=True)
    except (PydanticSerializationError, ValidationError) as error:
        raise JournalError(f"{kind}: {error}") from None
    if back != fact:
        raise JournalError(f"{kind}: must be equal after decoding, was {fact}, decoded as {back}")
    return kind, body, fact


def _dumped(adapter: TypeAdapter[Any], fact: Fact) -> tuple[bytes, Fact]:
    try:
        return adapter.dump_json(fact, warnings="error"), fact
    except PydanticSerializationError:
        fact = as_stored(fact)
        return adapter.dump_json(fact, warnings="error"), fact


def decode(kind: str, body: bytes) -> Any:
    """Return the fact in a row's bytes, or the dict for a kind that isn't in the model.

    Raises:
        DamagedJournal: the bytes aren't what `encode` wrote.
    """
    if kind == "Trades":
        return decode_trades(body)
    if kind == MARKET:
        return decode_market(body)
    try:
        if kind in ADAPTERS:
            return ADAPTERS[kind].validate_json(body, strict=True)
        return json.loads(body)
    except (ValidationError, ValueError) as error:
        raise DamagedJournal(f"{kind}: the bytes can't be read: {error}") from None


def encode_json(body: Mapping[str, Any]) -> bytes:
    """Return a dict as canonical JSON: sorted keys, exact floats (NaN and Infinity by name), numpy scalars as numbers.

    A text that UTF-8 can't encode is written as its escape.

    Raises:
        JournalError: the dict has values that JSON can't represent.
    """
    try:
        try:
            return _canonical(body)
        except UnicodeEncodeError:
            return _canonical(_storable(body))
    except (TypeError, ValueError) as error:
        raise JournalError(f"body: {error}") from None


def _canonical(body: Mapping[str, Any]) -> bytes:
    return json.dumps(body, sort_keys=True, separators=(",", ":"), ensure_ascii=False, default=_plain).encode()


def _plain(value: object) -> object:
    if isinstance(value, np.generic):
        return value.item()
    raise TypeError(f"must be plain JSON, was {type(value).__name__} {value!r}")


_TRADES_HEAD = struct.Struct("<BHI")  # format, length of the symbol, number of trades


_TRADES_FORMAT = 1


def encode_trades(trades: Trades) -> bytes:
    """Return a block of trades as compressed columns: differences, zigzag, bytes of equal weight together, zlib."""
    symbol = trades.symbol.encode()
    columns = np.array((trades.id, trades.price, trades.quantity, trades.time))
    packed = _pack(columns) + np.packbits(trades.buyer_is_maker).tobytes()
    return _TRADES_HEAD.pack(_TRADES_FORMAT, len(symbol), len(trades)) + symbol + zlib.compress(packed, 6)


def decode_trades(body: bytes) -> Trades:
    """Return the block of trades that `encode_trades` wrote, exactly.

    Raises:
        DamagedJournal: the bytes aren't such a block.
    """
    try:
        version, symbol_length, count = _TRADES_HEAD.unpack_from(body)
        start = _TRADES_HEAD.size + symbol_length
        symbol = body[_TRADES_HEAD.size : start].decode()
        packed = zlib.decompress(body[start:])
    except (struct.error, UnicodeDecodeError, zlib.error) as error:
        raise DamagedJournal(f"Trades: the bytes can't be read: {error}") from None
    if version != _TRADES_FORMAT or len(packed) != 4 * 8 * count + (count + 7) // 8:
        raise DamagedJournal(f"Trades: {count} trades of format {version} can't take {len(packed)} bytes")
    ids, prices, quantities, times = _unpack(packed[: 32 * count], count)
    bits = np.frombuffer(packed, np.uint8, offset=32 * count)
    return Trades(symbol, ids, prices, quantities, times, np.unpackbits(bits, count=count).astype(np.bool_))


def _pack(columns: Int64s) -> bytes:
    """Return columns one after the other, each as its lowest bytes, then its next ones, up to the highest."""
    # Differences wrap around at 64 bits, and wrap back when they are summed: exact for every value.
    difference = columns.copy()
    difference[:, 1:] -= columns[:, :-1]
    zigzag = (difference << 1) ^ (difference >> 63)
    return zigzag.astype("<i8", copy=False).view(np.uint8).reshape(len(columns), -1, 8).transpose(0, 2, 1).tobytes()


def _unpack(packed: bytes, count: int, columns: int = 4) -> Int64s:
    """Return the columns of `count` numbers each that `_pack` wrote."""
    weights = np.frombuffer(packed, np.uint8).reshape(columns, 8, count).transpose(0, 2, 1)
    zigzag = np.ascontiguousarray(weights).view("<u8").reshape(columns, count).astype(np.uint64)
    difference = (zigzag >> np.uint64(1)) ^ np.negative(zigzag & np.uint64(1))
    return np.cumsum(difference.view(np.int64), axis=1, dtype=np.int64)


_MARKET_HEAD = struct.Struct("<BII")  # format, bytes of the trades, number of mark prices


_MARKET_FORMAT, _MARK_COLUMNS = 1, 5


def encode_market(facts: Iterable[Trades | MarkPrice]) -> bytes:
    """Return trades and mark prices of one symbol as compressed columns; at least one is a mark price.

    Raises:
        JournalError: a mark price has a field that is no whole number of 64 bits.
    """
    blocks, marks, places, count = list[Trades](), list[MarkPrice](), list[int](), 0
    for fact in facts:
        if isinstance(fact, Trades):
            blocks.append(fact)
            count += len(fact)
        else:
            marks.append(fact)
            places.append(count)
    try:
        rows = [
            (place, mark.time, mark.price_e8, mark.funding_rate_e8, mark.next_funding_time)
            for place, mark in zip(places, marks, strict=True)
        ]
        packed = _pack(np.array(rows, dtype=np.int64).T)
    except (OverflowError, TypeError, ValueError) as error:
        raise JournalError(f"MarkPrice: can't be stored: {error}") from None
    flags = np.packbits([mark.is_last_price for mark in marks]).tobytes()
    trades = encode_trades(Trades.join(blocks) if blocks else Trades.from_rows(marks[0].symbol, []))
    return _MARKET_HEAD.pack(_MARKET_FORMAT, len(trades), len(marks)) + trades + zlib.compress(packed + flags, 6)


def decode_market(body: bytes) -> tuple[Trades | MarkPrice, ...]:
    """Return what `encode_market` wrote; trades between two mark prices are one block.

    Raises:
        DamagedJournal: the bytes aren't such a row.
    """
    try:
        version, size, count = _MARKET_HEAD.unpack_from(body)
        packed = zlib.decompress(body[_MARKET_HEAD.size + size :])
    except (struct.error, zlib.error) as error:
        raise DamagedJournal(f"{MARKET}: the bytes can't be read: {error}") from None
    width = _MARK_COLUMNS * 8 * count
    if version != _MARKET_FORMAT or len(packed) != width + (count + 7) // 8:
        raise DamagedJournal(f"{MARKET}: {count} mark prices of format {version} can't take {len(packed)} bytes")
    trades = decode_trades(body[_MARKET_HEAD.size : _MARKET_HEAD.size + size])
    columns = _unpack(packed[:width], count, _MARK_COLUMNS).tolist()
    flags = np.unpackbits(np.frombuffer(packed, np.uint8, offset=width), count=count).tolist()
    facts, done = list[Trades | MarkPrice](), 0
    for place, time, price_e8, rate_e8, funding_time, flag in zip(*columns, flags, strict=True):
        facts += [trades[done:place]] if place > done else []
        facts.append(MarkPrice(trades.symbol, time, price_e8, rate_e8, funding_time, bool(flag)))
        done = place
    return (*facts, trades[done:]) if done < len(trades) else tuple(facts)
