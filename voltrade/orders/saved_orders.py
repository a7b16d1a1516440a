"""Saving an open position and its orders as JSON, and restoring them in the next run."""

from __future__ import annotations

from collections.abc import Mapping
from decimal import Decimal
from typing import Any, NamedTuple

from voltrade.errors import DataError
from voltrade.model import Instrument, Purpose
from voltrade.orders.account_books import AccountBooks
from voltrade.orders.order_register import Order, OrderRegister
from voltrade.orders.order_states import PURPOSES, RESTART, STATES
from voltrade.orders.records import OrderRow, PositionRow
from voltrade.risk import whole

_REASONS = frozenset({"reason", "lookup_reason", "cancel_reason", "exit_reason", "closing_reason", "rest_reason"})
_OF_THIS_RUN = frozenset({"number", "is_removable", "cancels"})


_IN_TICKS = frozenset({
    "stop_distance", "take_profit_distance", "stop_price", "take_profit_price", "price", "trigger_price",
})  # fmt: skip
_IN_LOTS = frozenset({"entered", "exited", "quantity", "filled", "reported", "agreed_position"})
_IN_TICKLOTS = frozenset({"entry_notional", "exit_notional"})


class Scale(NamedTuple):
    """How many ticks and lots of a run one tick and lot of a saved state are."""

    ticks: int
    lots: int

    @staticmethod
    def between(saved: Mapping[str, Any], units: Instrument) -> Scale:
        """Return the scale from the units of a saved symbol to those of a run.

        Raises:
            KeyError: the saved symbol doesn't say its units.
            DataError: the run's units are coarser than those of the saved state.
        """
        now = {"tick_size": units.tick_size, "step_size": units.step_size}
        ratios = [Decimal(saved[name]) / unit for name, unit in now.items()]
        if any(ratio != int(ratio) for ratio in ratios):
            raise DataError(f"{units.symbol}: the saved state must be in multiples of tick and step, was in {saved}")
        return Scale(*map(int, ratios))

    def of(self, name: str) -> int:
        """Return by what a field is multiplied."""
        in_ticks, in_lots = name in _IN_TICKS | _IN_TICKLOTS, name in _IN_LOTS | _IN_TICKLOTS
        return (self.ticks if in_ticks else 1) * (self.lots if in_lots else 1)


def scaled_orders(saved: Any, scale: Scale) -> Any:
    """Return what `OrderMonitor.state` returned, or a part of it, in the units of a run."""
    if isinstance(saved, Mapping):
        return {
            name: value * scale.of(name) if type(value) is int else scaled_orders(value, scale)
            for name, value in saved.items()
        }
    return [scaled_orders(part, scale) for part in saved] if isinstance(saved, list) else saved


def open_position_state(register: OrderRegister, books: AccountBooks) -> dict[str, Any] | None:
    """Return the open position and its orders by field name; None where there is no position."""
    position = register.open_position
    if position is None:
        return None
    entries, exits = register.trade_ids_of(position.id)
    return {
        "position": _by_name(position.row, books),
        "orders": [{"id": o.id, "text": o.text, **_by_name(o.row, books)} for o in position.orders],
        "entry_trade_ids": list(entries),
        "exit_trade_ids": list(exits),
    }


def restore_open_position(
    register: OrderRegister, books: AccountBooks, index: int, saved: Mapping[str, Any], at: int
) -> None:
    """Restore a saved position; a look-up of each of its orders that can still act is due at `at`.

    All of it is read before anything is changed.

    Args:
        register: of the symbol, empty.
        books: the account's records.
        index: the symbol's row in them.
        saved: what `open_position_state` returned.
        at: now, ms.

    Raises:
        KeyError, TypeError, ValueError: `saved` lacks a field, or a field has the wrong type.
    """
    trip = _row(PositionRow, saved["position"], books)
    orders = [_row(OrderRow, each, books, number=n) for n, each in enumerate(saved["orders"])]
    texts = [(str(each["id"]), str(each["text"])) for each in saved["orders"]]
    trades = [[whole(trade) for trade in saved[name]] for name in ("entry_trade_ids", "exit_trade_ids")]
    books.column("position")[index] = tuple(trip)
    register.symbol_row["in_round_trip"], register.symbol_row["order_numbers"] = True, len(orders)
    for ids, read in zip(register.trade_ids_of(trip.id), trades, strict=True):
        ids += read
        register.fills.update(ids)
    for number, (order, (name, text)) in enumerate(zip(orders, texts, strict=True)):
        register.names[number], register.numbers[name] = name, number
        register.texts[number] = text
        if order.order_id:
            register.by_exchange_id[order.order_id] = number
        register.archive(order._replace(lookup_at=at, lookup_reason=RESTART))
        if not Order("", order).done or number in register.awaiting:
            register.row_of(number)


def _by_name(row: Any, books: AccountBooks) -> dict[str, Any]:
    """Return the fields of a row by name, with texts instead of numbers, so that a saved state outlives new tables."""
    return {name: _text(name, value, books) for name, value in row._asdict().items() if name not in _OF_THIS_RUN}


def _text(name: str, value: int, books: AccountBooks) -> int | str:
    if name in _REASONS:
        return books.reason_text(value)
    return str({"state": STATES, "purpose": PURPOSES}[name][value]) if name in ("state", "purpose") else value


def _row(kind: Any, saved: Mapping[str, Any], books: AccountBooks, **of_this_run: Any) -> Any:
    """Read the fields of a row by name; each must be there and have the right type."""
    given = {**dict.fromkeys(_OF_THIS_RUN, 0), **of_this_run}
    return kind(*(given[name] if name in given else _number(name, saved[name], books) for name in kind._fields))


def _number(name: str, saved: Any, books: AccountBooks) -> int:
    if name in _REASONS:
        return books.reason_number(str(saved))
    if name == "state":
        return STATES.index(saved)
    return PURPOSES.index(Purpose(saved)) if name == "purpose" else whole(saved)
