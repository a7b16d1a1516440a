"""Judge a session of another client by the venue's own log, and by what the client said of its account.

Nothing of voltrade is read here: the log is JSON, a row of facts a line.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

Row = dict[str, Any]

NEARLY = Decimal("1e-9")
"""What the words of a client that counts in floats may be off, relative."""


@dataclass(frozen=True)
class Trip:
    """A round trip of the script: the rows of the log that it made, and what the client said."""

    name: str
    rows: Sequence[Row]
    held: Sequence[Row]
    """What it said of its position and stops: after the entry, and after it was started again."""
    flat: Row
    """What it said at the end."""
    by_stop: bool = True
    """Whether the stop closed the position; else the client did."""
    is_exit_known: bool = True
    """Whether the client must know the exit's price: one that keeps nothing does not know what went on without it."""


def problems(trip: Trip, excused: Sequence[int] = ()) -> list[str]:
    """Return what was wrong in a trip: nothing doubled, nothing refused but `excused` codes, and both sides agree."""
    lines = [*_of_log(trip), *_of_words(trip), *_refused(trip.rows, excused)]
    return [f"{trip.name}: {line}" for line in lines]


def _of_log(trip: Trip) -> Iterator[str]:
    """Yield what the log has other than one entry, one stop of its quantity, and one exit."""
    orders, stops = _last(trip.rows, "order", "order_id"), _last(trip.rows, "algo", "algo_id")
    entries = [order for order in orders if order["side"] == "BUY"]
    exits = [order for order in orders if order["side"] == "SELL"]
    found = {"entry": entries, "stop": stops, "exit": exits}
    wrong = [f"one {what} expected, the log has {len(rows)}" for what, rows in found.items() if len(rows) != 1]
    yield from wrong
    if not wrong:
        yield from _of_orders(trip, entries[0], stops[0], exits[0])


def _of_orders(trip: Trip, entry: Row, stop: Row, leaving: Row) -> Iterator[str]:
    """Yield what is wrong with the orders of a trip, and with their fills."""
    if entry["origin"]:
        yield f"the entry came from a {entry['origin']}"
    if not (stop["reduce_only"] or stop["close_position"]) or stop["side"] != "SELL":
        yield f"the stop is a {stop['side']} that may open a position"
    if not stop["close_position"] and stop["quantity"] != entry["quantity"]:
        yield f"the stop is of {stop['quantity']}, the entry of {entry['quantity']}"
    if stop["status"] != ("FINISHED" if trip.by_stop else "CANCELED"):
        yield f"the stop ended {stop['status']}"
    if trip.by_stop != (leaving["order_id"] == stop["order_id"]) or trip.by_stop != bool(leaving["origin"]):
        yield f"the exit is order {leaving['order_id']}, the stop became {stop['order_id']}"
    sold, bought, last = _quantity(trip.rows, "SELL"), _quantity(trip.rows, "BUY"), _fills(trip.rows)[-1:]
    if not sold == bought == Decimal(entry["quantity"]) or any(Decimal(fill["position"]) != 0 for fill in last):
        yield f"{bought} bought and {sold} sold of {entry['quantity']}"


def _of_words(trip: Trip) -> Iterator[str]:
    """Yield where the client's own account is another than the venue's."""
    stops = [str(row["algo_id"]) for row in _last(trip.rows, "algo", "algo_id")]
    for word in trip.held:
        if word["stops"] != stops:
            yield f"the client's stops are {word['stops']}, the venue's {stops}"
        yield from _unequal("position", word["position"], _quantity(trip.rows, "BUY"))
        yield from _unequal("entry price", word["entry_price"], _price(trip.rows, "BUY"))
    if trip.flat["stops"]:
        yield f"the client's stops at the end are {trip.flat['stops']}"
    yield from _unequal("position at the end", trip.flat["position"], Decimal(0))
    if trip.is_exit_known or trip.flat["exit_price"]:
        yield from _unequal("exit price", trip.flat["exit_price"], _price(trip.rows, "SELL"))


def _unequal(what: str, word: str, fact: Decimal) -> Iterator[str]:
    if not word or abs(Decimal(word) - fact) > NEARLY * max(Decimal(1), fact):
        yield f"the client's {what} is {word or 'unknown'}, the venue's {fact}"


def _refused(rows: Sequence[Row], excused: Sequence[int]) -> Iterator[str]:
    for row in rows:
        if row["kind"] == "request" and row["code"] and row["code"] not in excused:
            yield f"{row['method']} {row['path']} was refused with {row['code']}"


def _last(rows: Sequence[Row], kind: str, key: str) -> list[Row]:
    """Return the last row of each order of a kind."""
    return list({row[key]: row for row in rows if row["kind"] == kind}.values())


def _fills(rows: Sequence[Row], side: str = "") -> list[Row]:
    return [row for row in rows if row["kind"] == "fill" and side in ("", row["side"])]


def _quantity(rows: Sequence[Row], side: str) -> Decimal:
    return sum((Decimal(row["quantity"]) for row in _fills(rows, side)), Decimal(0))


def _price(rows: Sequence[Row], side: str) -> Decimal:
    """Return the average price of the fills of a side, 0 without any."""
    paid = sum((Decimal(row["price"]) * Decimal(row["quantity"]) for row in _fills(rows, side)), Decimal(0))
    return paid / (_quantity(rows, side) or 1)
