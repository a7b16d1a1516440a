"""The orders of one symbol by client order id, number and row, and copies of those that are finished.

An order's id is its client order id at the exchange. Its number is ours and is never used again. Its row is its place
in the array of orders; once the order is finished, another one may get the row.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from voltrade.model import NEVER, AlgoUpdate, OrderUpdate, Purpose, Side
from voltrade.orders import order_states as states
from voltrade.orders import row_facts
from voltrade.orders.account_books import AccountBooks
from voltrade.orders.order_states import PURPOSES, STATES, AlgoState, OrderState
from voltrade.orders.records import ROWS, SPARE, OrderRow, PositionRow


@dataclass(frozen=True, slots=True)
class Order:
    """A copy of one order; later updates don't change it."""

    id: str
    row: Any
    """A row of ORDER."""
    text: str = ""

    @property
    def purpose(self) -> Purpose:
        """Why the order exists."""
        return PURPOSES[int(self.row.purpose)]

    @property
    def algo(self) -> bool:
        """Whether the order is conditional."""
        return row_facts.is_conditional(self.purpose)

    @property
    def state(self) -> OrderState | AlgoState:
        """State of the order."""
        name = STATES[self.row.state]
        return AlgoState(name) if self.algo else OrderState(name)

    @property
    def quantity(self) -> int:
        """Lots."""
        return int(self.row.quantity)

    @property
    def filled(self) -> int:
        """Lots of counted fills."""
        return int(self.row.filled)

    @property
    def done(self) -> bool:
        """Whether the order can no longer fill or trigger."""
        return bool(self.row.is_foreign or self.row.child_done or self.state in states.DONE)


@dataclass(frozen=True, slots=True)
class OpenPosition:
    """A copy of the open position and its orders, by purpose and in the order in which they were sent."""

    row: Any
    """A row of POSITION."""
    orders: tuple[Order, ...]

    @property
    def id(self) -> int:
        """Number of the round trip."""
        return int(self.row.id)

    @property
    def side(self) -> Side:
        """Side of the entry."""
        return Side(self.row.side)

    @property
    def entry(self) -> Order:
        """The entry order."""
        return self.orders[0]

    @property
    def lots(self) -> int:
        """Lots from our fills: unsigned, as `OrderRegister.lots`."""
        return int(self.row.entered - self.row.exited)

    @property
    def entry_notional(self) -> int:
        """Sum of price times quantity of the entry's fills, ticklots."""
        return int(self.row.entry_notional)


class OrderRegister:
    """Finds the orders of a symbol, and moves those that are finished out of their rows.

    Args:
        books: the account's records.
        index: the symbol's row in them.

    Attributes:
        names: client order id by number.
        numbers: number by client order id.
        by_exchange_id: our number by the exchange's order id.
        rows: row by number, of the orders that have one; some may be finished.
        texts: the exchange's text about an order that it refused, by number.
        fills: ids of the trades that are counted.
        awaiting: numbers of finished orders with fills that are reported but not counted.
    """

    def __init__(self, books: AccountBooks, index: int) -> None:
        self._books, self._index = books, index
        self.symbol_row = books.symbols[index]
        self.position_row = books.rows("position", index)
        self.order_rows = books.rows("orders", index)
        self._earlier_row = books.rows("earlier", index)
        self.names: dict[int, str] = {}
        self.numbers: dict[str, int] = {}
        self.by_exchange_id: dict[int, int] = {}
        self.rows: dict[int, int] = {}
        self.texts: dict[int, str] = {}
        self.fills: set[int] = set()
        self.awaiting: set[int] = set()
        self._finished: dict[int, Any] = {}
        """Finished orders by number, as they were when their rows were freed; `row_of` gives one a row again."""
        self._ended_trips: dict[int, Any] = {}
        """Round trips that have ended, by number; `row_of` puts that of an order back into the records."""
        self._trade_ids: dict[int, tuple[list[int], list[int]]] = {}
        """Trade ids of the entry's fills and of the exits' fills, by the number of the round trip."""

    # --- the position ----------------------------------------------------------------------------------------------

    @property
    def in_round_trip(self) -> bool:
        """Whether a round trip is in progress: from the intent of its entry until none of its orders can act."""
        return bool(self.symbol_row["in_round_trip"])

    @property
    def takes_fills(self) -> bool:
        """Whether a fill counts in the round trip in progress, as in `order_rules.takes_fills()`."""
        return self.in_round_trip and not self.position_row["is_closed"]

    @property
    def lots(self) -> int:
        """Lots of the open position, from our fills: unsigned, but negative where more exited than had entered."""
        row = self.position_row
        return int(row["entered"]) - int(row["exited"]) if self.in_round_trip else 0

    @property
    def position(self) -> int:
        """Signed lots of the open position, from our fills."""
        return int(self.position_row["side"]) * self.lots

    @property
    def open_position(self) -> OpenPosition | None:
        """A copy of the open position, None without one."""
        if not self.in_round_trip:
            return None
        trip = int(self.position_row["id"])
        mine = [order for order in self.orders.values() if order.row.round_trip == trip]
        ordered = sorted(mine, key=lambda order: (order.row.purpose, order.row.number))
        return OpenPosition(PositionRow(*self.position_row.item()), tuple(ordered))

    @property
    def first_fill(self) -> int:
        """Lowest trade id of the open position's entry fills, NEVER without one: no earlier trade belongs to it."""
        return min(self.trade_ids_of(int(self.position_row["id"]))[0], default=NEVER) if self.in_round_trip else NEVER

    def trade_ids_of(self, trip: int) -> tuple[list[int], list[int]]:
        """Return the trade ids of a round trip's entry fills and exit fills; the caller may append to both lists."""
        return self._trade_ids.setdefault(trip, ([], []))

    # --- orders ----------------------------------------------------------------------------------------------------

    @property
    def orders(self) -> dict[str, Order]:
        """A copy of every order, by client order id."""
        return {name: self.order(number) for name, number in self.numbers.items()}

    def order(self, number: int) -> Order:
        """Return a copy of one order."""
        row = self.rows.get(number)
        facts = self._finished[number] if row is None else OrderRow(*self.order_rows[row].item())
        return Order(self.names[number], facts, self.texts.get(number, ""))

    def live(self) -> list[Order]:
        """Return all orders that can still act, sorted by purpose: of the open position, orphans, and of round trips
        that have ended."""
        live = [order for order in map(self.order, self.rows) if not order.done]
        return sorted(live, key=lambda order: order.row.purpose)

    def live_of_position(self) -> list[Order]:
        """Return the orders of the open position that can still act, sorted by purpose."""
        trip = int(self.position_row["id"])
        return [order for order in self.live() if self.in_round_trip and order.row.round_trip == trip]

    def find(self, update: OrderUpdate) -> int | None:
        """Return the number of our order that an update is about, by the exchange's id, else by the client order id.

        The exchange may place several orders of its own with the same client order id, so an adopted order is found by
        the exchange's id only.
        """
        number = self.by_exchange_id.get(update.order_id)
        if number is None and (number := self.numbers.get(update.client_order_id)) is not None:
            row = self.order(number).row
            return None if row.is_foreign and row.order_id != update.order_id else number
        return number

    def is_ours(self, update: OrderUpdate) -> bool:
        """Return whether an update is about an order of ours; somebody else's that was adopted as an exit isn't."""
        number = self.find(update)
        return number is not None and not self.order(number).row.is_foreign

    def find_algo(self, update: AlgoUpdate) -> int | None:
        """Return the number of our conditional order that an update is about, None if it isn't ours."""
        number = self.numbers.get(update.client_order_id)
        return number if number is not None and self.order(number).algo else None

    def is_new_fill(self, update: OrderUpdate) -> bool:
        """Whether an update carries a fill that is not counted yet."""
        return update.trade_id > 0 and update.trade_id not in self.fills

    def awaits_fills(self) -> bool:
        """Whether the exchange has reported more filled lots of one of our orders than its counted fills."""
        reported = self.order_rows[: int(self.symbol_row["order_count"])]
        is_short = (reported["reported"] > reported["filled"]) & ~reported["is_foreign"]
        return bool(self.awaiting) or bool(np.any(is_short))

    # --- rows ------------------------------------------------------------------------------------------------------

    def add(self, row: int, name: str, order_id: int = 0) -> int:
        """Register the order in a row by its client order id `name`; return its number.

        If another order has the name, `#` and the exchange's order id are appended.
        """
        number = int(self.order_rows[row]["number"])
        name = f"{name}#{order_id}" if name in self.numbers else name
        self.names[number], self.numbers[name], self.rows[number] = name, number, row
        return number

    def row_of(self, number: int) -> int | None:
        """Return an order's row, or None where no row is free.

        A finished order gets a row again. The ended round trip of an order is put back into the records: as `earlier`
        while another is in progress, else as `position`.
        """
        if number not in self.rows:
            row = int(self.symbol_row["order_count"])
            if row == ROWS:
                return None
            self.order_rows[row], self.rows[number] = tuple(self._finished[number]), row
            self.symbol_row["order_count"] = row + 1
        row = self.rows[number]
        trip = int(self.order_rows[row]["round_trip"])
        if trip != self.position_row["id"] and trip in self._ended_trips:
            column = "earlier" if self.in_round_trip else "position"
            self._books.column(column)[self._index] = tuple(self._ended_trips[trip])
        return row

    def archive_finished(self, is_spent: Callable[[Order], bool]) -> None:
        """Free the rows of finished orders, and keep copies of these orders and of round trips that have ended.

        Where too few rows are free, orders that are done but have fills to be counted lose their rows too, and those
        that are `is_spent`.
        """
        is_kept = self.takes_fills or int(self.position_row["id"]) in self._ended_trips
        count, kept = int(self.symbol_row["order_count"]), 0
        is_full = count - int(self.symbol_row["removable_count"]) > ROWS - SPARE
        if is_kept and not is_full and not self.symbol_row["removable_count"] and not self._earlier_row["id"]:
            return
        for row in range(count):
            order = OrderRow(*self.order_rows[row].item())
            known = Order(self.names[order.number], order)
            if order.is_removable or (is_full and (known.done or is_spent(known))):
                self.archive(order)
            else:
                if kept != row:
                    self.order_rows[kept] = self.order_rows[row]
                self.rows[order.number] = kept
                kept += 1
        self.symbol_row["order_count"], self.symbol_row["removable_count"] = kept, 0
        self._archive_round_trips()

    def archive(self, order: Any) -> None:
        """Keep a copy of an order, given as a row of ORDER, in place of its row."""
        number = order.number
        self._finished[number] = order
        self.rows.pop(number, None)
        is_short = order.reported > order.filled and not order.is_foreign
        (self.awaiting.add if is_short else self.awaiting.discard)(number)

    def _archive_round_trips(self) -> None:
        """Keep copies of the round trips that are closed."""
        earlier = self._earlier_row
        if earlier["id"]:
            self._ended_trips[int(earlier["id"])] = PositionRow(*earlier.item())
            earlier["id"] = 0
        if not self.takes_fills:
            self._ended_trips[int(self.position_row["id"])] = PositionRow(*self.position_row.item())
