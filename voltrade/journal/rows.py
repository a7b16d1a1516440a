"""Rows of the journal: facts as bytes, and the hash that chains each row to those before it."""

from __future__ import annotations

import hashlib
import json
import struct
import typing
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
from pydantic import TypeAdapter, ValidationError
from pydantic_core import PydanticSerializationError

from voltrade.errors import DamagedJournal, JournalError
from voltrade.journal.market import MARKET, decode_market, decode_trades, encode_trades
from voltrade.model import Event, Output, Trades, storable

Fact = TypeVar("Fact", bound=Event | Output)

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
    return _CANONICAL(body).encode()


def _plain(value: object) -> object:
    if isinstance(value, np.generic):
        return value.item()
    raise TypeError(f"must be plain JSON, was {type(value).__name__} {value!r}")


_CANONICAL = json.JSONEncoder(sort_keys=True, separators=(",", ":"), ensure_ascii=False, default=_plain).encode
