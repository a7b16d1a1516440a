"""The comparison of the account with the orders and fills in our books, and with the settings."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

from voltrade.config import RiskSettings
from voltrade.model import AccountSummary, AlgoUpdate, OrderUpdate, Purpose, Snapshot
from voltrade.orders.order_register import Order, OrderRegister
from voltrade.orders.order_states import FORCED

ADJUSTED_AFTER = 3
"""This many snapshots in a row must show the same position, smaller than our fills make it, and an exit must have been
refused because there was nothing to reduce, before the books are adjusted."""

FOREIGN_LOTS_AFTER_SNAPSHOTS = 5
"""After this many snapshots in a row with lots that our fills don't explain, these lots count as foreign."""
BEHIND_AT_MOST = 5
"""From this many snapshots in a row on, a position is believed that the known trades do not lead to."""
CLOCKS_APART_MS = 1_000
"""How far the time of a trade, which is the exchange's, may be from that of our clock."""
MOST_UNKNOWN = 20
"""The most orders whose names one snapshot wants; each costs a question."""


def foreign_kind(update: OrderUpdate) -> str:
    """Return the kind of a foreign order: liquidation, ADL, settlement, adjustment, or CLOSED_ELSEWHERE."""
    kinds = (kind for prefix, kind in FORCED.items() if update.client_order_id.startswith(prefix))
    return next(kinds, "CLOSED_ELSEWHERE")


def listed_ids(snapshot: Snapshot) -> set[str]:
    """Return the client order ids of the open orders of both kinds that a snapshot lists."""
    orders: Iterable[OrderUpdate | AlgoUpdate] = (*snapshot.orders, *snapshot.algo_orders)
    return {order.client_order_id for order in orders}


def setting_problems(wanted: RiskSettings, account: Snapshot | AccountSummary) -> list[str]:
    """Return what is wrong with the account's settings for a configuration; while anything is, nothing is entered."""
    problems = []
    if account.hedge_mode:
        problems.append("position mode must be one-way, was hedge")
    if account.multi_assets:
        problems.append("margin mode must be single-asset, was multi-assets")
    if account.leverage != wanted.leverage:
        problems.append(f"leverage must be {wanted.leverage}, was {account.leverage}")
    if account.margin_type != wanted.margin_type:
        problems.append(f"margin type must be {wanted.margin_type}, was {account.margin_type}")
    return problems


def _last_trade(snapshot: Snapshot) -> int:
    """Return the highest id among the account's trades that a snapshot lists; 0 where it lists none."""
    return max((fill.trade_id for fill in snapshot.fills), default=0)


def _lots(fills: Iterable[OrderUpdate]) -> int:
    """Return the signed lots by which trades have moved the position."""
    return sum(fill.side * fill.last_quantity for fill in fills)


def _moved(snapshot: Snapshot, after: int) -> int:
    """Return the signed lots by which the account's trades after a trade id moved its position."""
    return _lots(fill for fill in snapshot.fills if fill.trade_id > after)


def _highest_after(fills: Sequence[OrderUpdate], position: int, side: int) -> list[int]:
    """Return the highest position from each of these trades on; the last of them leads to `position`, a long one where
    `side` is 1, a short one where it is -1."""
    found, most = list[int](), position
    for fill in reversed(fills):
        most = max(most, position)
        found.append(most)
        position -= side * fill.side * fill.last_quantity
    return found[::-1]


def share(fill: OrderUpdate, lots: int) -> OrderUpdate:
    """Return somebody else's fill as one of at most `lots`: the rest closed or opened lots that weren't ours.

    Its profit and fee stay whole, as the exchange has booked them, so that the wallet needs no correction.
    """
    if fill.last_quantity <= lots:
        return fill
    return replace(fill, quantity=lots, filled=lots, last_quantity=lots)


class SnapshotCheck:
    """Compares snapshots of the account with the orders of one symbol.

    Attributes:
        agreed_trade_id: the highest trade id in a snapshot whose position was that of our fills, and by which every
            order of ours was accounted for. No fill of ours up to it is missing, and no foreign trade up to it is ever
            counted.
        agreed_position: signed lots of the position after that trade.
        has_agreed: whether a snapshot ever agreed; one of a flat account without trades leaves `agreed_trade_id` at 0.
        listed_trade_id: the highest trade id that any snapshot has listed.
        told_trade_id: the highest id of a foreign trade that a stream has told, or a snapshot.
        mismatches: for how many snapshots in a row the position has differed from our fills, whatever else differed.
    """

    def __init__(self, register: OrderRegister) -> None:
        self._register = register
        self.agreed_trade_id = 0
        self.agreed_position = 0
        self.has_agreed = False
        self.listed_trade_id = 0
        self.told_trade_id = 0
        self.mismatches = 0
        self._behind = 0
        self._shown: tuple[int, int, tuple[str, ...]] = 0, 0, ()
        """Wallet, position and names of the open orders of the last snapshot."""
        self._smaller = 0, 0
        """The last snapshot's position where it was smaller than ours, and for how many snapshots in a row."""

    def new_fills(self, snapshot: Snapshot) -> list[OrderUpdate]:
        """Return the fills of a snapshot that weren't counted: of our orders, or closing the open position.

        A trade names its order by the exchange's id alone. An unknown id may be that of an order that a conditional
        order of ours became. So a trade counts as foreign only when every order of ours is accounted for; one whose
        order was asked for and has another name, when every conditional order is. And foreign trades are returned only
        where the position of the snapshot was read after them, and has what they leave of ours. They close lots of
        somebody else first; of ours they have closed what the account lacks from then on.
        """
        register, inferred = self._register, self._inferred_orders(snapshot)
        side = int(register.position_row["side"])
        new = sorted(filter(register.is_new_fill, snapshot.fills), key=lambda fill: fill.trade_id)
        ours = [fill for fill in new if register.is_ours(fill)]
        if not register.in_round_trip:
            return ours
        fills = [fill for fill in new if register.is_ours(fill) or fill.order_id in inferred]
        theirs = [fill for fill in new if not (register.is_ours(fill) or fill.order_id in inferred)]
        opened = min([register.first_fill, *(fill.trade_id for fill in fills if fill.side == side)])
        lots, held = register.lots + side * _lots(fills), side * snapshot.position.quantity
        missing = self._unaccounted(snapshot)
        may_close = self.trades_lead_to_position(snapshot) and not any(order.algo for order in missing)
        for fill, most in zip(theirs, _highest_after(theirs, held, side), strict=True):
            taken = lots - max(most, 0)
            is_exit = may_close and fill.side == -side and self.is_later(fill, opened)
            is_named = bool(fill.client_order_id) or register.find(fill) is not None
            if is_exit and (is_named or not missing) and 0 < taken <= fill.last_quantity:
                fills.append(share(fill, taken))
                lots -= taken
        if not (lots == held or (not inferred and 0 <= lots <= max(held, 0))):
            return ours
        register.by_exchange_id.update(inferred)
        return sorted(fills, key=lambda fill: fill.trade_id)

    def unknown_orders(self, snapshot: Snapshot) -> list[int]:
        """Return the exchange's ids of the orders, the newest first, whose trades since the last agreement we lack.

        At most MOST_UNKNOWN. Where the positions agree they are wanted too: an exit and the next entry of which the
        journal has lost both lead from a position to the same one.
        """
        unknown = dict[int, None]()
        if not self.has_agreed and snapshot.position.quantity == self._register.position:
            return []  # trades from before us
        for fill in sorted(snapshot.fills, key=lambda fill: -fill.trade_id):
            if fill.trade_id <= self.agreed_trade_id or len(unknown) == MOST_UNKNOWN:
                break
            if self._register.find(fill) is None and self._register.is_new_fill(fill) and not fill.client_order_id:
                unknown[fill.order_id] = None
        return list(unknown)

    def _inferred_orders(self, snapshot: Snapshot) -> dict[int, int]:
        """Return our number by the exchange's order id, for trades whose order can only be one of ours.

        An order of unknown outcome may have been executed: by trades of its side, after the last agreement, of at most
        its quantity, and not before it was sent. A trade whose order has another name is somebody else's.
        """
        register = self._register
        waiting = [o for o in register.live() if o.state in ("PENDING_SUBMIT", "UNKNOWN") and not o.algo]
        unnamed: dict[int, list[OrderUpdate]] = {}
        for fill in filter(register.is_new_fill, snapshot.fills):
            is_unnamed = register.find(fill) is None and not fill.client_order_id
            if is_unnamed and fill.trade_id > self.agreed_trade_id:
                unnamed.setdefault(fill.order_id, []).append(fill)
        inferred: dict[int, int] = {}
        for order_id, fills in unnamed.items():
            lots, traded_at = sum(fill.last_quantity for fill in fills), min(fill.time for fill in fills)
            sent = [order for order in waiting if order.row.time <= traded_at + CLOCKS_APART_MS]
            fit = [order for order in sent if order.row.side == fills[0].side and lots <= order.quantity]
            if len(fit) == 1 and fit[0].row.number not in inferred.values():
                inferred[order_id] = fit[0].row.number
        return inferred

    def is_later(self, fill: OrderUpdate, opened: int) -> bool:
        """Return whether a foreign trade may belong to the open position: trade ids rise with time."""
        return fill.trade_id > max(self.agreed_trade_id, opened)

    def is_forced_exit(self, update: OrderUpdate) -> bool:
        """Return whether a fill is of an order by which the exchange itself reduces the open position.

        Beside lots of somebody else only a snapshot tells what of it was ours.
        """
        register = self._register
        if not register.in_round_trip or not update.trade_id or foreign_kind(update) == "CLOSED_ELSEWHERE":
            return False
        if self.mismatches:
            return False
        closes = update.side == -int(register.position_row["side"]) and register.lots > 0
        return closes and self.is_later(update, register.first_fill)

    def accounts_for_all(self, snapshot: Snapshot, but: Purpose | None = None) -> bool:
        """Return whether each live order of ours is listed, or is a conditional order whose exchange id we have.

        Args:
            snapshot: the account.
            but: orders of this purpose are ignored.
        """
        return not [order for order in self._unaccounted(snapshot) if order.purpose is not but]

    def _unaccounted(self, snapshot: Snapshot) -> list[Order]:
        listed = listed_ids(snapshot)
        return [o for o in self._register.live() if not (o.id in listed or (o.algo and o.row.order_id))]

    def trades_lead_to_position(self, snapshot: Snapshot) -> bool:
        """Return whether the trades after `agreed_trade_id` lead to the position that a snapshot shows.

        The account is read by several requests; where they don't, the position was read before the last of the trades.
        """
        moved = snapshot.position.quantity - _moved(snapshot, self.agreed_trade_id)
        return not self.has_agreed or moved == self.agreed_position

    def note_trades(self, snapshot: Snapshot) -> None:
        """Note a snapshot, and whether its position was read before a foreign trade, listed or told by a stream."""
        if self.has_agreed:
            foreign = (fill.trade_id for fill in snapshot.fills if not self._register.is_ours(fill))
            self.told_trade_id = max(self.told_trade_id, *foreign, 0)
        lists_all = _last_trade(snapshot) >= self.told_trade_id and self.trades_lead_to_position(snapshot)
        is_shown = lists_all or self.told_trade_id <= self.agreed_trade_id
        self._behind = 0 if is_shown else self._behind + 1

    @property
    def is_behind(self) -> bool:
        """Whether the last snapshot's position was read before a foreign trade: it may agree with our books while the
        account does not.

        From BEHIND_AT_MOST in a row on it is believed: a position may also change without a trade.
        """
        return 0 < self._behind < BEHIND_AT_MOST

    @property
    def has_our_position(self) -> bool:
        """Whether the last snapshot had the position of our fills, and was read after all trades that are known."""
        return self.mismatches == 0 and not self.is_behind

    def is_known(self, snapshot: Snapshot) -> bool:
        """Return whether it is known whose lots a snapshot's position is: it is ours, with what named orders of others
        have traded since the last agreement; or many snapshots in a row have differed from ours, and the listed trades
        lead to it, whoever made them.

        Such a one tells as much of our orders as one that agrees. Lots that no listed trade explains may be those of an
        order of ours whose fills are not listed yet.
        """
        register, theirs = self._register, snapshot.position.quantity
        if theirs == register.position:
            return True
        if not self.trades_lead_to_position(snapshot):
            return False
        new = filter(register.is_new_fill, snapshot.fills)
        others = [fill for fill in new if fill.trade_id > self.agreed_trade_id]
        are_named = all(fill.client_order_id or register.find(fill) is not None for fill in others)
        is_explained = self.has_agreed and are_named and theirs == register.position + _lots(others)
        return is_explained or self.mismatches >= FOREIGN_LOTS_AFTER_SNAPSHOTS

    def is_settled(self, snapshot: Snapshot) -> bool:
        """Return whether a position `is_known`, or many snapshots in a row have differed, whatever explains it.

        That is enough where every order of ours is listed.
        """
        return self.is_known(snapshot) or self.mismatches >= FOREIGN_LOTS_AFTER_SNAPSHOTS

    def has_foreign_lots(self, snapshot: Snapshot) -> bool:
        """Return whether a snapshot has our position, and lots beyond it that count as somebody else's."""
        ours, theirs = self._register.position, snapshot.position.quantity
        return theirs * ours > ours * ours and not self.is_behind and self.is_settled(snapshot)

    def lists_ours_alone(self, summary: AccountSummary) -> bool:
        """Return whether the open orders of a summary are those of ours, none of which is in flight or unknown."""
        live = self._register.live()
        is_settled = all(order.state in ("NEW", "PARTIALLY_FILLED") for order in live)
        return is_settled and set(summary.orders) == {order.id for order in live}

    def is_explained(self, snapshot: Snapshot) -> bool:
        """Return whether the trades and orders of a snapshot account for its position."""
        return self.has_agreed and self.trades_lead_to_position(snapshot) and self.accounts_for_all(snapshot)

    def foreign_ids(self, snapshot: Snapshot) -> list[str]:
        """Return the client order ids of open orders that aren't ours."""
        foreign = [update.client_order_id for update in snapshot.orders if self._register.find(update) is None]
        algos = (update.client_order_id for update in snapshot.algo_orders)
        return foreign + [name for name in algos if name not in self._register.numbers]

    def unlisted(self, snapshot: Snapshot) -> list[Order]:
        """Return our live orders that a snapshot doesn't list, without those that have no answer yet."""
        listed = listed_ids(snapshot)
        return [o for o in self._register.live() if o.id not in listed and o.state != "PENDING_SUBMIT"]

    def note_agreement(self, snapshot: Snapshot) -> None:
        """Raise `agreed_trade_id`, unless a fill of ours may be missing.

        Where the position was read before the last trades, only the trades of an earlier snapshot are certain.
        """
        if not self.accounts_for_all(snapshot) or self._register.awaits_fills():
            return
        quantity = snapshot.position.quantity
        agreed = _last_trade(snapshot) if self.trades_lead_to_position(snapshot) else self.listed_trade_id
        if agreed > self.agreed_trade_id or not self.has_agreed:
            self.agreed_trade_id, self.agreed_position = agreed, quantity - _moved(snapshot, agreed)
            self.has_agreed = True

    def note_shown(self, snapshot: Snapshot) -> None:
        """Note the highest trade id that a snapshot has listed, and what a summary would have shown of it."""
        self.listed_trade_id = max(self.listed_trade_id, _last_trade(snapshot))
        self._shown = snapshot.wallet, snapshot.position.quantity, tuple(sorted(listed_ids(snapshot)))

    def has_shown(self, summary: AccountSummary) -> bool:
        """Return whether the last snapshot has shown the wallet, position and open orders of a summary."""
        return self._shown == (summary.wallet, summary.position, tuple(sorted(set(summary.orders))))

    def note_positions(self, ours: int, theirs: int) -> None:
        """Note the position by our fills and that of the snapshot, in signed lots; once for each snapshot."""
        self.mismatches = self.mismatches + 1 if ours != theirs else 0
        is_less = ours != 0 and theirs * (1 if ours > 0 else -1) < abs(ours)
        before, times = self._smaller
        self._smaller = (theirs, times + 1 if before == theirs else 1) if is_less else (0, 0)

    def has_lost_lots(self) -> bool:
        """Return whether lots of ours no longer exist: several snapshots in a row agree on it, and so does a refusal.

        A snapshot may be out of date for long; but a reduce-only order is refused only where there is nothing to
        reduce.
        """
        return self._smaller[1] >= ADJUSTED_AFTER and bool(self._register.symbol_row["nothing_to_reduce"])
