"""The judges of a simulated session: oracles O1 to O15 of the fault catalogue, and what is measured of a campaign.

Each looks at the venue's log, the requests and the journals, and returns what broke its rule; none asks the product.
Where the catalogue leaves something open, the docstring of the oracle says what was decided.
"""

from __future__ import annotations

import bisect
import re
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from decimal import Decimal

from simulation import entries, funds, market, targets
from simulation.entries import TRADING_RULES
from simulation.evidence import Evidence, JournalRow, Json, Life, Request, Violation
from simulation.held_back import is_halted_by_faults
from simulation.reading import (
    BAR_FIELDS,
    COMPARED_MS,
    DAY_MS,
    DIALLED_MS,
    ENDED,
    HOLDING,
    KEY_TOLD_MS,
    NAME,
    NEVER,
    OURS,
    PLACES,
    SETTLED_MS,
    ZERO,
    Bare,
    Fill,
    Moment,
    Placed,
    Reading,
    fills_in,
    forbids,
    is_heard,
    is_ours,
    money,
    pause_ms,
    reading_of,
    trades_of,
)

BARE_MS = 2_000
"""Longest that a position may be uncovered where nothing went wrong in the minute before."""
BARE_STRUCK_MS = 5_000
"""And where something did, of time in which REST could be used."""
BARE_DEAD_MS = 8_000
"""And from the death of the engine's process on."""
FELT_FOR_MS = 60_000
HALT_MS = 250
ABSENT_MS = 5_000
"""How long after the end of its recvWindow a request may arrive yet."""
RESUMED_MS = 60_000
"""After faults stop, trading goes on within this time, or says why not."""
UNREACHED = "ExchangeError"
"""How the reason of an engine begins that could not reach the exchange."""
GOING_ON = ("resume", "acknowledge", "pause", "reduce")
"""Commands after which a session goes on."""
EARLY_MS = 5_000
"""How much before its time a session may end: its clock begins with the first snapshot."""
QUESTIONS = 50
REFUSALS, DIALS, LOOKUPS, READS = 30, 25, 40, 1_000
"""How often in a minute orders for one purpose may be refused with one code, streams of a kind be opened, one order be
looked up, and anything be read."""
FILTER_CODES = (-1013, -1111, -4003, -4004, -4005, -4013, -4014, -4016, -4023, -4024, -4131, -4164)
REFUSED_BY_FILTERS = 3
"""How often in a minute an order for one purpose may be refused by one filter."""
WEIGHT = 1_920
"""80 % of 2,400 a minute."""
WEIGHT_AFTER = 240
"""What may be used of a minute after an answer has said that as much is used, by others or by us."""
WEIGHT_TO_START = 100
"""And more for each further engine that is started in it after a death: what it must read, 99 as measured."""
PRICE_MOVES = Decimal("1.02")
"""A size is reckoned before it is sent: the price may have moved by as much when it fills."""
MARK_MOVES = Decimal("0.01")
"""So far the mark may be elsewhere than an engine knows."""
TRANSFERRED = re.compile(r": (-?[0-9.]+)$")
"""An amount in the text of an alert about a transfer, or about an adjustment."""
LOST_INTENT = "the journal has lost that it was sent"
PAID_MS = 15_000
"""So long after funding was paid the account is compared, and its history read, where nobody told of it."""
OPEN_ORDERS = 20
ORDERS_PER_S = 10
LOST_CODES = (-1000, -1001, -1006, -1007)
"""Codes of answers that do not say what became of an order."""
PLAIN_LOSSES = ("internal", "redirect")
"""Answers in the place of the venue's that say that nothing was done."""
LAG_MS = 100
HUNG_MS = 5_000
TOO_LATE, MOST_TOO_LATE = -1021, 20
"""The refusal of a timestamp, and how many may be refused within a minute."""
KEY_CODES = (-2014, -2015, -1022, -4061)
"""Refusals that say that our rights, or the account's mode, are wrong."""
STALLS = ("stop", "stall", "clock", "suspend")
_MARKET, _ORDERS, _USER = "A1 A2 A3 A4 A5 A6 A11 A13", "B1 B2 B3 B4 B5 B6 B7 B8 B9 B11 B15", "C1 C2 C3 C4 C5 C6"
CRASHES_WITHIN_MS = 600_000
RECOVERABLE = frozenset(f"{_MARKET} {_ORDERS} {_USER} D1 D2 D3 D4 E1 E2 E3 E6 E7".split())
"""Rows of the catalogue after which a session goes on."""


def judge(evidence: Evidence) -> list[Violation]:
    """Return all that oracles O1 to O15 find, in their order."""
    return [violation for oracle in ORACLES.values() for violation in oracle(evidence)]


# --- O1 to O4: the books --------------------------------------------------------------------------------------------


def o1_positions(evidence: Evidence) -> list[Violation]:
    """At the end the venue's position is that of the journals' fills and of the product's own books, symbol by symbol.

    Fills of the last moments may still be on their way: those after `Reading.known_until` are left out on both sides.
    Fills by hand are left out on both sides, by their ids.
    """
    reading, found = reading_of(evidence), []
    venue, journals = dict[str, Decimal](), Counter[str]()
    for fill in reading.fills:
        if fill.time <= reading.known_until and fill.whose != "hand":
            venue[fill.symbol] = venue.get(fill.symbol, ZERO) + fill.signed
    by_hand = {(fill.symbol, fill.trade_id) for fill in reading.fills if fill.whose == "hand"}
    for (symbol, number), (told, *_) in reading.told.items():
        if told["time"] <= reading.known_until and (symbol, number) not in by_hand:
            journals[symbol] += told["side"] * told["last_quantity"]
    for symbol in sorted({*venue, *journals}):
        wanted, lots = venue.get(symbol, ZERO), _lots(reading, symbol, journals[symbol])
        if lots != wanted:
            text = f"{symbol}: the venue has {wanted}, the journals' fills make {lots}"
            found.append(Violation("O1", "position differs", evidence.judged, text))
    return found + _books_differ(reading)


def _books_differ(reading: Reading) -> list[Violation]:
    """Hold the last valuation of each symbol against the fills that its journal had told by then.

    Of a fill by hand, or forced, counts what it took from our position.
    """
    lots, seen = Counter[str](), set[tuple[str, int]]()
    others = _taken_by_others(reading)
    differing: dict[str, str] = {}
    for _, row in reading.of_kind("OrderUpdate", "Snapshot", "EquityPoint"):
        for fill in fills_in(row):
            key = fill["symbol"], fill["trade_id"]
            if key not in seen:
                seen.add(key)
                lots[fill["symbol"]] += others.get(key, fill["side"] * fill["last_quantity"])
        if row.kind == "EquityPoint":
            symbol, ours = row.body["symbol"], row.body["position"]
            differing[symbol] = f"{symbol}: the books have {ours} lots, fills make {lots[symbol]}"
            if ours == lots[symbol]:
                del differing[symbol]
    return [Violation("O1", "books differ", reading.evidence.judged, text) for text in differing.values()]


def _taken_by_others(reading: Reading) -> dict[tuple[str, int], int]:
    """What each fill by hand, or forced, changed of our position, in lots."""
    ours, found = dict[str, Decimal](), {}
    for fill in reading.fills:
        if fill.whose != "ours":
            change = fill.ours - ours.get(fill.symbol, ZERO)
            found[fill.symbol, fill.trade_id] = int(change / reading.units[fill.symbol][1])
        ours[fill.symbol] = fill.ours
    return found


def _lots(reading: Reading, symbol: str, lots: int) -> Decimal:
    return lots * reading.units[symbol][1]


def o2_fills(evidence: Evidence) -> list[Violation]:
    """Each fill of ours, forced ones included, is in the journals with the venue's amounts, and counts once.

    A round trip between flat and flat is written once. Where all ends flat and nobody traded by hand, the round trips'
    net and the transfers make the wallet's change. What is booked as a transfer was one, or funding that nobody told;
    what is booked as an adjustment has been made by fills that aren't ours. In calm the books' wallet is the venue's.
    """
    reading, found = reading_of(evidence), []
    venue = {(fill.symbol, fill.trade_id): fill for fill in reading.fills}
    for key, fill in venue.items():
        if key in reading.told:
            found += _amounts_differ(reading, fill, reading.told[key])
        elif fill.whose != "hand" and fill.time <= reading.known_until:
            text = f"trade {fill.trade_id} of {fill.client_id} is in no journal"
            found.append(Violation("O2", "fill missing", fill.time, text))
    for symbol, number in sorted(reading.told.keys() - venue.keys()):
        text = f"{symbol}: trade {number} never was"
        found.append(Violation("O2", "fill invented", evidence.judged, text))
    found += _trips(reading) + _wallet_differs(reading) + _money_invented(reading)
    return found + funds.books_differ(reading) + _not_booked(reading)


def _not_booked(reading: Reading) -> list[Violation]:
    """The first amount that an event told as moved, not as funding, and that was booked as no transfer."""
    booked = {amount for _, amount in _booked(reading)}
    for _, row in reading.of_kind("AccountUpdate"):
        change = money(row.body["change"])
        is_moved = change and row.body["reason"] not in ("ORDER", "FUNDING_FEE")
        if is_moved and change not in booked:
            return [Violation("O2", "transfer not booked", row.time, f"{row.body['reason']}: {change} is no transfer")]
    return []


def _amounts_differ(reading: Reading, fill: Fill, told: list[Json]) -> list[Violation]:
    tick, step = reading.units[fill.symbol]
    truth = fill.side, fill.price, fill.quantity, fill.fee, fill.realised
    for each in told:
        price, quantity = each["last_price"] * tick, each["last_quantity"] * step
        said = each["side"], price, quantity, money(each["fee"]), money(each["realised"])
        if said != truth:
            text = f"trade {fill.trade_id}: the venue says {_plain(truth)}, a journal {_plain(said)}"
            return [Violation("O2", "fill differs", fill.time, text)]
    return []


def _plain(values: Iterable[object]) -> str:
    return ", ".join(map(str, values))


def _trips(reading: Reading) -> list[Violation]:
    found = []
    seen: dict[tuple[str, int], int] = {}
    truth = {(fill.symbol, fill.trade_id): fill for fill in reading.fills}
    for number, trip in enumerate(reading.trips):
        keys = [(trip["symbol"], each) for each in (*trip["entry_trade_ids"], *trip["exit_trade_ids"])]
        twice = [key for key in keys if key in seen]
        if twice:
            kind = "round trip twice" if set(twice) >= set(keys) else "fill counted twice"
            text = f"round trip {trip['id']} counts trade {twice[0][1]} again"
            found.append(Violation("O2", kind, trip["closed_at"], text))
        seen.update((key, number) for key in keys)
        fills = [truth[key] for key in keys if key in truth]
        made = sum((fill.realised for fill in fills), ZERO), sum((fill.fee for fill in fills), ZERO)
        if made != (money(trip["realised"]), money(trip["fees"])) or len(set(keys)) != len(keys):
            text = f"round trip {trip['id']}: its fills realised {made[0]} and cost {made[1]}"
            found.append(Violation("O2", "round trip differs", trip["closed_at"], text))
    return found + [
        Violation("O2", "round trip missing", fill.time, f"trade {fill.trade_id} is in no round trip")
        for fill in _closed_fills(reading)
        if (fill.symbol, fill.trade_id) not in seen
    ]


def _closed_fills(reading: Reading) -> list[Fill]:
    """Fills of positions that were ours alone, were closed, and had time to be written."""
    lives = reading.evidence.lives
    if lives and lives[-1].how in ("killed", "failed"):
        return []
    is_over = bool(lives) and lives[-1].how == "ended"
    limit = reading.known_until if is_over else reading.evidence.judged - 60_000
    closed: list[Fill] = []
    for symbol in reading.units:
        stretch: list[Fill] = []
        for fill in reading.fills:
            if fill.symbol == symbol:
                stretch.append(fill)
            if fill.symbol == symbol and not fill.held:
                closed += stretch if fill.time <= limit and all(each.whose != "hand" for each in stretch) else []
                stretch = []
    return closed


def _wallet_differs(reading: Reading) -> list[Violation]:
    """The wallet's change, but for transfers, is what round trips made.

    Funding that was paid while nobody listened may have been booked as a transfer, and nothing else may: then both
    with transfers agree. And
    funding that no event told a position of is not asked of its round trip where that ended within PAID_MS.
    """
    books, evidence = reading.books, reading.evidence
    if reading.by_hand or any(books.held.values()) or len(_closed_fills(reading)) != len(reading.fills):
        return []
    before = change = moved = ZERO
    for row in evidence.of_kind("start", "fill", "account"):
        wallet = Decimal(row["wallet"])
        if row["kind"] == "fill" or (row["kind"] == "account" and row["reason"] == "FUNDING_FEE"):
            change += wallet - before
        elif row["kind"] == "account" and all(row["time"] <= life.end for life in evidence.lives[-1:]):
            moved += wallet - before
        before = wallet
    made = sum((money(trip["net"]) for trip in reading.trips), ZERO)
    booked = sum((amount for _, amount in _booked(reading)), ZERO)
    unheard = [amount for _, amount in _unheard_funding(reading)]
    as_transfers = booked - moved if booked - moved in _sums(unheard[-10:]) else ZERO
    if any(change - untold in (made, made + as_transfers) for untold in _sums(_untold_funding(reading))):
        return []
    return [
        Violation("O2", "money differs", evidence.judged, f"round trips made {made}, the wallet changed by {change}")
    ]


def _untold_funding(reading: Reading) -> list[Decimal]:
    """Payments that no event told, to positions that ended before anybody could ask for them."""
    flat = [fill.time for fill in reading.fills if not fill.held]
    return [amount for paid, amount in _unheard_funding(reading) if any(paid <= time < paid + PAID_MS for time in flat)]


def _unheard_funding(reading: Reading) -> list[tuple[int, Decimal]]:
    """When funding was paid of which no event told how much it was, and how much that is."""
    events = [row.body for _, row in reading.of_kind("AccountUpdate") if row.body["reason"] == "FUNDING_FEE"]
    told = {event["time"] for event in events if event["change"]}
    found, before = [], ZERO
    for row in reading.evidence.of_kind("start", "fill", "account"):
        if row.get("reason") == "FUNDING_FEE" and row["time"] not in told:
            found.append((row["time"], Decimal(row["wallet"]) - before))
        before = Decimal(row["wallet"])
    return found


def _booked(reading: Reading, code: str = "TRANSFER") -> list[tuple[int, Decimal]]:
    """What was booked as transfers, or as adjustments: when, and how much."""
    alerts = [row for _, row in reading.of_kind("Alert") if row.body["code"] == code]
    found = [(row.time, TRANSFERRED.search(row.body["text"])) for row in alerts]
    return [(time, Decimal(amount[1])) for time, amount in found if amount is not None]


def _money_invented(reading: Reading) -> list[Violation]:
    """Amounts booked as transfers that no changes of the wallet but by fills make, one or several of them.

    And adjustments that those and fills of others don't make.
    """
    moved, before = list[tuple[int, Decimal]](), ZERO
    for row in reading.evidence.of_kind("start", "fill", "account"):
        wallet = Decimal(row["wallet"])
        if row["kind"] == "account" and wallet != before:
            moved.append((row["time"], wallet - before))
        before = wallet
    others = [(fill.time, fill.realised - fill.fee) for fill in reading.fills if fill.whose != "ours"]
    found = []
    for code, parts in (("TRANSFER", moved), ("ADJUSTMENT", sorted(moved + others))):
        for time, amount in _booked(reading, code):
            known = [change for since, change in parts if since <= time]
            if not _is_sum(amount, known):
                text = f"{amount} was booked as {code}, the account was moved by {_plain(known) or 'nothing'}"
                found.append(Violation("O2", "money invented", time, text))
    return found


def _is_sum(amount: Decimal, parts: list[Decimal]) -> bool:
    """Whether some of the parts make an amount; of many parts the newest ten are tried."""
    return amount in _sums(parts[-10:])


def _sums(parts: list[Decimal]) -> set[Decimal]:
    """What some of the parts make, or none."""
    sums = {ZERO}
    for part in parts:
        sums |= {each + part for each in sums}
    return sums


def o3_orders(evidence: Evidence) -> list[Violation]:
    """The venue accepted at most one order for an intent, no larger than intended; a client id names one intent, and is
    not sent again unless it was refused.

    What all entries of one round trip have filled is no more than the largest of them meant to. An order counts as
    never placed only when its request can't arrive any more: after its recvWindow and 5 s.
    """
    reading, found = reading_of(evidence), []
    for client_id, placed in reading.placed_by_id.items():
        intents = reading.intents.get(client_id, [])
        meant = max((row.body["order"]["quantity"] for _, row in intents), default=0)
        if len(placed) > 1:
            text = f"{client_id} was accepted {len(placed)} times"
            found.append(Violation("O3", "accepted twice", placed[-1].time, text))
        elif intents and placed[0].asked["quantity"] > meant:
            text = f"{client_id}: {placed[0].asked['quantity']} lots were accepted, {meant} intended"
            found.append(Violation("O3", "more than intended", placed[0].time, text))
    for client_id, intents in reading.intents.items():
        if len(intents) > 1:
            text = f"{client_id} names {len(intents)} intents"
            found.append(Violation("O3", "id used twice", intents[-1][1].time, text))
    return found + _sent_again(evidence) + _entries_overfilled(reading) + _given_up_early(reading)


def _sent_again(evidence: Evidence) -> list[Violation]:
    """Orders that arrived although one of their client id had, and had not been refused: it may be there already."""
    found, sent = [], set[str]()
    posts = [each for each in evidence.requests if each.method == "POST" and each.path in PLACES and each.arrived >= 0]
    for post in sorted(posts, key=lambda each: each.arrived):
        if post.client_id in sent:
            found.append(Violation("O3", "id sent again", post.arrived, f"{post.client_id} arrived again"))
        if not 400 <= post.status < 500:
            sent.add(post.client_id)
    return found


def _given_up_early(reading: Reading) -> list[Violation]:
    found, patience = [], int(reading.evidence.settings.get("recv_window_ms", 0)) + ABSENT_MS
    for _, row in reading.of_kind("Alert"):
        name = row.body["text"].split()[0] if row.body["code"] == "NOT_PLACED" else ""
        waited = [row.body["time"] - intent.body["time"] for _, intent in reading.intents.get(name, [])[:1]]
        if waited and waited[0] < patience:
            text = f"{name} counted as never placed after {waited[0]} ms"
            found.append(Violation("O3", "given up early", row.time, text))
    return found


def _entries_overfilled(reading: Reading) -> list[Violation]:
    meant, filled, last = dict[str, Decimal](), dict[str, Decimal](), dict[str, int]()
    for client_id, placed in reading.placed_by_id.items():
        trip, purpose = _trip_of(client_id)
        if purpose == "e":
            step = reading.units[placed[0].asked["symbol"]][1]
            meant[trip] = max(meant.get(trip, ZERO), placed[0].asked["quantity"] * step)
    for fill in reading.fills:
        trip, purpose = _trip_of(fill.client_id)
        if purpose == "e":
            filled[trip], last[trip] = filled.get(trip, ZERO) + fill.quantity, fill.time
    return [
        Violation(
            "O3", "entered twice", last[trip], f"round trip {trip}: {much} entered, {meant.get(trip, ZERO)} meant"
        )
        for trip, much in filled.items()
        if much > meant.get(trip, ZERO)
    ]


def _trip_of(client_id: str) -> tuple[str, str]:
    """Epoch and number of the round trip, and the letter of the purpose; empty where it is no name of ours."""
    match = NAME.match(client_id)
    return (f"{match[1]}-{match[2]}", match[3]) if match else ("", "")


def o4_orphans(evidence: Evidence) -> list[Violation]:
    """Each open order of ours is alive in the journals and belongs to a position; no order of others was cancelled, and
    none of ours taken for one of theirs.

    What was placed, or what went flat, in the last 10 s may be on its way. After a session that ended flat nothing of
    ours is open, but what has triggered and can't be cancelled any more; nor, before, a minute after the last fault
    that was felt, what only protects, without a position.
    """
    reading, found = reading_of(evidence), []
    told, lives = _told_orders(reading), evidence.lives
    is_over = bool(lives) and lives[-1].how == "ended"
    flat_since = {fill.symbol: fill.time for fill in reading.fills if not fill.held}
    for order in reading.books.working.values():
        if not is_ours(order) or order.status == "TRIGGERING":
            continue
        old = evidence.judged - order.begun > SETTLED_MS or is_over
        position = reading.books.held.get(order.symbol, ZERO)
        flat_for = evidence.judged - max(flat_since.get(order.symbol, 0), order.begun)
        state = told.get(order.client_id, "")
        unwritten = not order.is_entry and reading.died_unwritten(order.client_id, order.begun)
        if order.client_id not in reading.intents and not (unwritten or reading.was_lost(order.begun)):
            found.append(Violation("O4", "orphan", order.begun, f"{order.client_id} is open and stands in no journal"))
        elif is_over and not position:
            found.append(Violation("O4", "left open", order.begun, f"{order.client_id} is open after a flat end"))
        elif not position and not order.is_entry and flat_for > SETTLED_MS:
            found.append(Violation("O4", "left open", order.begun, f"{order.client_id} is open without a position"))
        elif old and (not state or state in ENDED or state == "NOT_PLACED"):
            text = f"{order.client_id} is open, the journal last heard: {state or 'nothing'}"
            found.append(Violation("O4", "state differs", order.begun, text))
    return found + _left_meanwhile(reading) + _foreign_cancels(reading) + _called_foreign(reading)


def _left_meanwhile(reading: Reading) -> list[Violation]:
    """The first order that protected nothing for a minute in which an engine lived and no fault was felt."""
    for name, begin, end in reading.left:
        calm = begin
        for since, until in sorted([*entries.felt(reading), *_untended(reading.evidence)]):
            if since > calm + COMPARED_MS:
                break
            calm = max(calm, until)
        if end - calm > COMPARED_MS:
            text = f"{name} was open for {end - begin} ms without a position"
            return [Violation("O4", "left open", begin, text)]
    return []


def _called_foreign(reading: Reading) -> list[Violation]:
    """Orders that are told to be somebody else's, or unknown to the journal, though it has their intent by then."""
    meant, found = set[str](), []
    for _, row in reading.of_kind("OrderIntent", "Alert", "BreakerChange"):
        text = row.body.get("reason", "") if row.kind == "BreakerChange" else row.body.get("text", "")
        if row.kind == "OrderIntent":
            meant.add(row.body["order"]["client_order_id"])
        elif LOST_INTENT in text or row.body.get("code") in ("FOREIGN_ORDER", "FORCED_ORDER"):
            names = meant & {word.split("#")[0] for word in text.split()}  # `#` joins a second order of one name
            found += [Violation("O4", "ours called foreign", row.time, f"{name} is called foreign") for name in names]
    return found


def _told_orders(reading: Reading) -> dict[str, str]:
    """The last state of each order that the journals tell; one that has ended is not opened by late news."""
    told: dict[str, str] = {}
    for _, row in reading.of_kind("OrderUpdate", "AlgoUpdate", "Reply", "Snapshot", "Alert"):
        if row.kind == "Alert" and row.body["code"] == "NOT_PLACED":
            told[row.body["text"].split()[0]] = "NOT_PLACED"
        for order in _orders_in(row):
            name = order["client_order_id"]
            if told.get(name) not in ENDED:
                told[name] = order["status"]
    return told


def _orders_in(row: JournalRow) -> list[Json]:
    """The states of orders that a row tells."""
    match row.kind:
        case "OrderUpdate" | "AlgoUpdate":
            return [row.body]
        case "Reply":
            return [each for each in (row.body["order"], row.body["algo_order"]) if each]
        case "Snapshot":
            return [*row.body["orders"], *row.body["algo_orders"]]
    return []


def _foreign_cancels(reading: Reading) -> list[Violation]:
    found, asked = [], set[int]()
    for request in reading.evidence.requests:
        if request.method != "DELETE" or "listenKey" in request.path:
            continue
        if request.client_id and not request.client_id.startswith(OURS):
            text = f"a cancel of {request.client_id}, which is not ours"
            found.append(Violation("O4", "foreign cancel", request.sent, text))
        elif request.path.endswith(("allOpenOrders", "algoOpenOrders", "openAlgoOrders")):
            found.append(Violation("O4", "foreign cancel", request.sent, f"all orders were cancelled: {request.path}"))
        elif not request.client_id:
            asked.add(request.arrived)
    for row in reading.evidence.of_kind("accepted"):
        if row["time"] in asked and row["action"] in ("cancel_order", "cancel_algo"):
            is_algo = row["action"] == "cancel_algo"
            known = reading.books.algos if is_algo else reading.books.orders
            order = known.get(row["algo_id" if is_algo else "order_id"])
            if order is not None and not is_ours(order):
                text = f"a cancel of {order.client_id}, which is not ours"
                found.append(Violation("O4", "foreign cancel", row["time"], text))
    return found


# --- O5: protected ---------------------------------------------------------------------------------------------------


def o5_protected(evidence: Evidence) -> list[Violation]:
    """Stops of ours that wait, and exits of ours that work, cover our position; see `VenueOrder.covers`.

    The clock of a stretch starts anew when the process dies in it: what came before is held to 2 s (5 s of usable REST
    where a fault was felt in the minute before or in the first 2 s, and not one of market data), what comes after to
    8 s of usable REST. Where packets are slow, the way of one that tells of the position and of one that brings the
    stop is not counted, as far as they are late. That a stop is gone nobody can know before the comparison of that
    minute where the exchange says no word of it, or none that arrives, unless a journal has it sooner. Nobody tends a
    position after a session has ended: it must be covered at that moment, and what a person does to it later is his.
    And where the settings ask for a take-profit, it rests too; a stop triggers where it was planned; see `targets`.
    """
    reading, found = reading_of(evidence), []
    for bare in reading.bare:
        found += _bare_too_long(reading, bare)
    return found + targets.missing(reading) + targets.misplaced(reading)


def _bare_too_long(reading: Reading, bare: Bare) -> list[Violation]:
    end, is_cut = bare.end, False
    for since, until in _untended(reading.evidence):
        if since < bare.begin < until:
            return []
        if bare.begin <= since < end:
            end, is_cut = since, True
    if is_cut:
        text = f"{bare.symbol}: the session ended with {bare.most} uncovered"
        return [Violation("O5", "ended uncovered", end, text)]
    for begin, stop, limit in _pieces(reading, bare.begin, end):
        lasted = reading.usable(begin, stop) - _late_on_the_way(reading, begin, stop)
        if lasted > limit:
            text = f"{bare.symbol}: {bare.most} uncovered for {lasted} ms, {limit} are allowed"
            return [Violation("O5", "uncovered", bare.begin, text)]
    return []


def _pieces(reading: Reading, begin: int, end: int) -> list[tuple[int, int, int]]:
    """Cut a stretch at the deaths in it; each piece with how long it may be."""
    cuts = [begin, *(death for death in reading.deaths if begin < death < end), end]
    first = BARE_STRUCK_MS if reading.is_hampered(begin - FELT_FOR_MS, begin + BARE_MS) else BARE_MS
    recent = [death for death in reading.deaths if begin - BARE_DEAD_MS <= death <= begin]
    if recent:
        first = max(first, BARE_DEAD_MS - (begin - recent[-1]))
    first += _unheard_ms(reading, begin)
    limits = [first] + [BARE_DEAD_MS] * (len(cuts) - 2)
    return list(zip(cuts, cuts[1:], limits, strict=False))


def _unheard_ms(reading: Reading, time: int) -> int:
    """How long it may take until the engine hears that a stop ended at a time: 0 where it was us, or where no fault
    kept the word of it away; else until the journal has it, or the account is compared."""
    evidence = reading.evidence
    ended = [row for row in evidence.of_kind("algo") if row["time"] == time and row["status"] in ENDED]
    forgotten = any(row["time"] == time and row["do"] == "forget_stops" for row in evidence.of_kind("fault"))
    by_us = any(each.method == "DELETE" and each.arrived == time for each in evidence.requests)
    is_unheard = any(since <= time <= until for since, until in reading.unheard)
    most = COMPARED_MS if is_unheard else _user_late_ms(evidence, time)
    if not (ended or forgotten) or by_us or not most:
        return 0
    return min(most, _heard(reading, {row["client_order_id"] for row in ended}, time) - time)


def _user_late_ms(evidence: Evidence, time: int) -> int:
    """How much later than usual user data arrives that is told at a time."""
    late = [each for each in evidence.strikes if each.kind == "user_late" and each.begin <= time <= each.until]
    return sum(int(1_000 * each.facts["by_s"]) for each in late)


def _heard(reading: Reading, names: set[str], time: int) -> int:
    """When a journal has that orders ended which ended at a time."""
    for _, row in reading.of_kind("AlgoUpdate", "Reply", "Snapshot"):
        if row.time >= time and any(
            order["client_order_id"] in names and order["status"] in ENDED for order in _orders_in(row)
        ):
            return row.time
    return NEVER


def _late_on_the_way(reading: Reading, begin: int, end: int) -> int:
    """How much later than usual two packets arrive, one there and one back, while the network is slow."""
    slow = [each for each in reading.evidence.strikes if each.kind == "slow" and "by_s" in each.facts]
    return sum(int(2_000 * each.facts["by_s"]) for each in slow if each.begin <= end and each.until >= begin)


def _untended(evidence: Evidence) -> list[tuple[int, int]]:
    """Stretches after a session's end in which no engine lived."""
    lives = evidence.lives
    begins = [life.begin for life in lives[1:]] + [evidence.judged + 1]
    return [(life.end, begin) for life, begin in zip(lives, begins, strict=True) if life.how == "ended"]


# --- O6 to O9: what may be sent --------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Stop:
    """A stretch of the journals in which no entry may be sent. Times by the journal; `end` -1 where it stands."""

    why: str
    begin: int
    end: int
    detail: str


@dataclass(frozen=True, slots=True)
class Breach:
    """An entry that was intended while none might be."""

    time: int
    client_id: str
    why: str


class _Halts:
    """Walks the journals in their order and notes when entries are forbidden, as the journals themselves know it."""

    def __init__(self, reading: Reading) -> None:
        self._reading = reading
        self._takes_hand = reading.evidence.settings.get("on_manual", "block") == "block"
        self._fills = {(fill.symbol, fill.trade_id): fill for fill in reading.fills}
        self._asked: set[str] = set()
        self._told: set[str] = set()
        """Orders of which the exchange has told anything: a lost answer leaves nothing unknown of them."""
        self._by_exchange_id: dict[int, str] = {}
        self._lots, self._counted = Counter[str](), set[tuple[str, int]]()
        self._on: dict[str, tuple[int, str]] = {}
        self._journal = 0
        self.stops: list[Stop] = []
        self.breaches: list[Breach] = []
        for journal, row in reading.rows:
            if journal != self._journal:
                self._begin_run(journal)
            handler = getattr(self, f"_on_{row.kind}", None)
            if handler is not None:
                handler(row.body, max(row.time, row.body.get("time", 0)))
            if row.kind in ("OrderUpdate", "AlgoUpdate", "Reply", "Snapshot"):
                self._note_news(row)

    @property
    def standing(self) -> dict[str, tuple[int, str]]:
        """What forbids entries at the end, since when, and its detail."""
        return self._on

    def all(self) -> list[Stop]:
        return self.stops + [Stop(why, begin, -1, detail) for why, (begin, detail) in self._on.items()]

    def _set(self, why: str, time: int, detail: str = "") -> None:
        self._on.setdefault(why, (time, detail))

    def _clear(self, *names: str, time: int = 0) -> None:
        for why in [each for each in self._on if each.split(":")[0] in names or each in names]:
            begin, detail = self._on.pop(why)
            self.stops.append(Stop(why, begin, time or begin, detail))

    def _begin_run(self, journal: int) -> None:
        """What a person told one session, and a stream's state, do not outlive it; the breaker does."""
        self._journal = journal
        self._clear("operator", "link", "key", "unknown")

    def _on_BreakerChange(self, body: Json, time: int) -> None:
        if body["mode"] == "ACTIVE":
            self._clear("breaker", time=time)
        else:
            self._on["breaker"] = self._on.get("breaker", (time, ""))[0], body["rule"]

    def _on_Operator(self, body: Json, time: int) -> None:
        if body["action"] == "resume":
            self._clear("operator", "hand", "key", time=time)
        elif body["action"] != "acknowledge":
            self._set("operator", time, body["action"])

    def _on_StreamStatus(self, body: Json, time: int) -> None:
        if body["up"]:
            self._clear(f"link:{body['stream']}", time=time)
        else:
            self._set(f"link:{body['stream']}", time)

    def _on_CancelOrder(self, body: Json, time: int) -> None:
        self._asked.add(body["client_order_id"])

    def _on_AlgoUpdate(self, body: Json, time: int) -> None:
        name = body["client_order_id"]
        is_stop = _trip_of(name)[1] == "s" and body["status"] == "CANCELED"
        if is_stop and name not in self._asked and self._takes_hand:
            self._set("hand", time, f"{name} was cancelled")

    def _on_OrderUpdate(self, body: Json, time: int) -> None:
        if body["trade_id"]:
            self._note_fill(body, time)

    def _on_Snapshot(self, body: Json, time: int) -> None:
        for fill in body["fills"]:
            self._note_fill(fill, time)
        position = body["position"]
        if position["quantity"] == self._lots[position["symbol"]]:
            self._clear("foreign", time=time)
        listed = [order["client_order_id"] for order in (*body["orders"], *body["algo_orders"])]
        others = [name for name in listed if not name.startswith(OURS)]
        if others:
            self._set("others", time, others[0])
        else:
            self._clear("others", time=time)

    def _note_fill(self, told: Json, time: int) -> None:
        key = told["symbol"], told["trade_id"]
        fill = self._fills.get(key)
        if fill is None or key in self._counted:
            return
        self._counted.add(key)
        if fill.whose == "ours" or fill.moved_ours:
            self._lots[fill.symbol] += told["side"] * told["last_quantity"]
        if fill.whose == "forced" or (fill.moved_ours and fill.whose == "hand" and self._takes_hand):
            self._set("hand", time, f"{fill.client_id} took from the position")
        elif fill.whose == "hand":
            self._set("foreign", time, f"{fill.client_id} is not ours")

    def _on_Reply(self, body: Json, time: int) -> None:
        if body["order"]:
            self._by_exchange_id[body["order"]["order_id"]] = body["client_order_id"]
        if body["action"] == "submit" and body["outcome"] == "UNKNOWN" and body["client_order_id"] not in self._told:
            self._set(f"unknown:{body['client_order_id']}", time, body["client_order_id"])
        if body["action"] == "submit" and body["code"] in KEY_CODES:
            self._set("key", time, f"{body['client_order_id']} was refused with {body['code']}")

    def _on_Alert(self, body: Json, time: int) -> None:
        if body["code"] == "NOT_PLACED":
            self._clear(f"unknown:{body['text'].split()[0]}", time=time)

    def _note_news(self, row: JournalRow) -> None:
        """An order that anything was told of is not unknown any more."""
        time = max(row.time, row.body.get("time", 0))
        told = {order["client_order_id"] for order in _orders_in(row)}
        fills = (self._fills.get((fill["symbol"], fill["trade_id"])) for fill in fills_in(row))
        told |= {fill.client_id for fill in fills if fill is not None}
        self._told |= told
        self._clear(*(f"unknown:{name}" for name in told), time=time)

    def _on_OrderIntent(self, body: Json, time: int) -> None:
        order = body["order"]
        if order["reduce_only"] or order["close_position"]:
            return
        for why in sorted(self._on):
            self.breaches.append(Breach(time, order["client_order_id"], why))


def _halts(reading: Reading) -> _Halts:
    kept = vars(reading)
    if "_halts" not in kept:
        kept["_halts"] = _Halts(reading)
    found: _Halts = kept["_halts"]
    return found


ENTERED = {
    "breaker": "entry while halted",
    "operator": "entry while stopped",
    "link": "entry without a stream",
    "hand": "entry after a hand",
    "foreign": "entry on a foreign position",
    "others": "entry beside a foreign order",
    "key": "entry without rights",
    "unknown": "entry while unknown",
}


def o6_halts(evidence: Evidence) -> list[Violation]:
    """No entry reaches the venue that was intended after a halt stood in the journal, or sent 250 ms after.

    Halts: a breaker that is not ACTIVE, an operator's command, a stream that is down, an outcome that is unknown, a
    refusal of our rights; a forced order, a close, reduction or cancelled stop by hand, until a person resumes; and a
    foreign position until a snapshot agrees, a foreign order as long as snapshots list it. What is intended after a
    halt is told by the order of the journal's rows; what is sent late, by clocks, and not of an engine that was started
    while its clock was wrong. That an outcome is unknown, or our rights are refused, is also taken from the answers as
    the harness carried them, whatever the journal says of them.
    That no socket of a stream is open is also taken from the harness, whatever the journal says. Leverage, margin type
    or the assets mode changed by hand may take 60 s to be noticed.
    """
    reading = reading_of(evidence)
    halts = _halts(reading)
    found = []
    for breach in halts.breaches:
        if reading.reached(breach.client_id):
            text = f"{breach.client_id} was sent though: {breach.why}"
            found.append(Violation("O6", ENTERED[breach.why.split(":")[0]], breach.time, text))
    found += _sent_late(reading, halts) + _sent_unasked(reading) + _sent_without_a_stream(reading)
    return found + _mode_changed(reading)


def _sent_late(reading: Reading, halts: _Halts) -> list[Violation]:
    """Entries that left after a halt, by the harness's clock; not those of an engine that took over a wrong clock."""
    wrong = _wrong_clocks(reading.evidence)
    known = {breach.client_id for breach in halts.breaches}
    stops = [stop for stop in halts.all() if stop.why in ("breaker", "operator", "hand")]
    stops = [stop for stop in stops if not _is_within(stop.begin, wrong)]
    found = []
    for client_id, placed in reading.placed_by_id.items():
        post = reading.posts.get(client_id)
        if not placed[0].is_entry or client_id in known or post is None or _is_within(post.sent, wrong):
            continue
        for stop in stops:
            if stop.begin + HALT_MS < post.sent and (stop.end < 0 or post.sent < stop.end):
                late = post.sent - stop.begin
                text = f"{client_id} left {late} ms after a halt: {stop.why} {stop.detail}"
                found.append(Violation("O6", ENTERED[stop.why], post.arrived, text))
    return found


def _wrong_clocks(evidence: Evidence) -> list[tuple[int, int]]:
    """When engines lived that were started while the machine's clock was wrong, by that clock and by the venue's."""
    steps = [each for each in evidence.strikes if each.kind == "clock"]
    lives = [(life, step) for life in evidence.lives for step in steps if step.begin <= life.begin <= step.until]
    by = [(life, ms) for life, step in lives for ms in (0, int(step.facts.get("ms", 0)))]
    return [(life.begin + ms, life.end + ms) for life, ms in by]


def _is_within(time: int, stretches: list[tuple[int, int]]) -> bool:
    return any(begin <= time <= end for begin, end in stretches)


def _sent_unasked(reading: Reading) -> list[Violation]:
    """Entries that left although an answer, as it came over the wire, had said nothing of an order, or of another one,
    and no news of it had come; or had refused our rights, and no person had resumed.

    Of an account's only run, and not where a disk lost what the engine had written of it.
    """
    evidence, found = reading.evidence, []
    if len(evidence.journals) > 1:
        return []
    wrong, news = _wrong_clocks(evidence), _news(reading)
    resumed = [row.time for _, row in reading.of_kind("Operator") if row.body["action"] == "resume"]
    stops = list[Stop]()
    for post in (each for each in _own_posts(evidence) if not reading.was_lost(each.answered)):
        if post.code in KEY_CODES:
            end = next((time for time in resumed if time >= post.answered), NEVER)
            stops.append(Stop("key", post.answered, end, f"{post.client_id} was refused with {post.code}"))
        elif _says_nothing(reading, post):
            told = news.get(post.client_id, NEVER)
            stops.append(Stop("unknown", post.answered, told, f"{post.client_id} was answered with {post.status}"))
    for client_id, placed in reading.placed_by_id.items():
        sent = _sent(reading, placed[0])
        if not placed[0].is_entry or _is_within(sent, wrong):
            continue
        for stop in stops:
            if stop.begin + HALT_MS < sent < stop.end and stop.detail.split()[0] != client_id:
                text = f"{client_id} left {sent - stop.begin} ms after {stop.detail}"
                found.append(Violation("O6", ENTERED[stop.why], sent, text))
    return found[:1]


def _sent_without_a_stream(reading: Reading) -> list[Violation]:
    """The first entry that was meant, and left, while no socket of a stream was open, as the harness saw it."""
    evidence = reading.evidence
    if len(evidence.journals) > 1:
        return []
    shut, wrong = _shut(evidence), _wrong_clocks(evidence)
    for client_id, placed in reading.placed_by_id.items():
        sent, meant = _sent(reading, placed[0]), reading.intents.get(client_id, [])
        if not (placed[0].is_entry and meant) or _is_within(sent, wrong):
            continue
        for stop in shut:
            if stop.begin + HALT_MS < min(sent, meant[0][1].time) and sent < stop.end:
                text = f"{client_id} left {sent - stop.begin} ms after the last {stop.detail} socket was closed"
                return [Violation("O6", ENTERED["link"], sent, text)]
    return []


def _shut(evidence: Evidence) -> list[Stop]:
    """When no socket of a category was open, from the end of its last one on until another is opened."""
    sockets = [(time, 0, url) for time, url in evidence.dials] + [(time, 1, url) for time, url in evidence.hung_up]
    begins = [(life.begin, -1, "") for life in evidence.lives]
    found, many, since = list[Stop](), Counter[str](), dict[str, int]()
    for time, how, url in sorted([*sockets, *begins]):
        category = next((each for each in ("private", "market", "public") if f"/{each}/" in url), "other")
        if how < 0:
            found += [Stop("link", begin, time, each) for each, begin in since.items()]
            many, since = Counter(), {}
        elif how == 0:
            many[category] += 1
            found += [Stop("link", since.pop(category), time, category)] if category in since else []
        elif many[category]:
            many[category] -= 1
            if not many[category]:
                since[category] = time
    return found + [Stop("link", begin, NEVER, each) for each, begin in since.items()]


def _own_posts(evidence: Evidence) -> list[Request]:
    """Requests for orders of ours that were answered."""
    asked = [each for each in evidence.requests if each.method == "POST" and each.path in PLACES]
    return [each for each in asked if each.client_id.startswith(OURS) and each.answered >= 0]


def _says_nothing(reading: Reading, post: Request) -> bool:
    """Whether an answer to a request for an order leaves open what became of it."""
    struck = reading.struck_requests.get((post.arrived, f"POST {post.path}"), {})
    if struck.get("do") == "alter_answer":
        return post.status == 200
    if struck.get("do") in ("swallow", "lose_answer", "late") and not 400 <= post.status < 500:
        return struck.get("how") not in PLAIN_LOSSES and struck.get("code", 0) in (0, *LOST_CODES)
    return post.status == 0 or post.code in LOST_CODES


def _news(reading: Reading) -> dict[str, int]:
    """When a journal had first news of each order, other than by the answer to its request."""
    found: dict[str, int] = {}
    fills = {(fill.symbol, fill.trade_id): fill.client_id for fill in reading.fills}
    for _, row in reading.of_kind("Reply", "OrderUpdate", "AlgoUpdate", "Snapshot", "Alert"):
        names = [order["client_order_id"] for order in _orders_in(row)]
        names += [fills.get((fill["symbol"], fill["trade_id"]), "") for fill in fills_in(row)]
        if row.kind == "Alert":
            names = row.body["text"].split()[:1] if row.body["code"] == "NOT_PLACED" else []
        if row.kind != "Reply" or row.body["action"] != "submit":
            for name in names:
                found.setdefault(name, row.time)
    return found


def _mode_changed(reading: Reading) -> list[Violation]:
    """Entries long after leverage, margin type or the assets mode became other ones than the session's, and stayed so.

    Those of another symbol are not asked after.
    """
    since, found = dict[str, int](), []
    for row in reading.evidence.truth:
        for what, is_wrong in entries.settings_in(reading, row):
            if not is_wrong:
                since.pop(what, None)
            else:
                since.setdefault(what, row["time"])
        if row["kind"] != "accepted" or row["action"] not in ("place_order", "place_algo"):
            continue
        asked = row["asked"]
        is_entry = asked["client_order_id"].startswith(OURS) and not (asked["reduce_only"] or asked["close_position"])
        for what, begin in since.items():
            if is_entry and row["time"] - begin > FELT_FOR_MS:
                text = f"{asked['client_order_id']} {row['time'] - begin} ms after another {what} was set by hand"
                found.append(Violation("O6", f"entry at another {what}", row["time"], text))
    return found


_ENTRY = re.compile(r"\de\d+$")
"""How the client ids of our entries end."""


def _may_be_unwritten(evidence: Evidence, request: Request) -> bool:
    """Whether a disk takes nothing, and the order only protects: it is sent all the same."""
    full = any(
        each.kind == "disk_full" and each.begin <= request.arrived <= each.until + 1_000 for each in evidence.strikes
    )
    return full and not _ENTRY.search(request.client_id)


def o7_written_ahead(evidence: Evidence) -> list[Violation]:
    """When an order's request arrives, a second reader of the journal sees its intent; each order has one."""
    reading = reading_of(evidence)
    found = [
        Violation("O7", "not durable", request.arrived, f"{request.client_id} arrived before its intent was on disk")
        for request in evidence.requests
        if request.method == "POST"
        and request.path in PLACES
        and request.arrived >= 0
        and not request.durable
        and not _may_be_unwritten(evidence, request)
    ]
    return found + [
        Violation("O7", "no intent", placed[0].time, f"{client_id} was accepted and stands in no journal")
        for client_id, placed in reading.placed_by_id.items()
        if client_id not in reading.intents and not reading.may_be_unknown(placed[0])
    ]


def o8_replay(evidence: Evidence) -> list[Violation]:
    """Each journal, replayed, gives itself."""
    found = []
    for number, differences in enumerate(evidence.replay):
        if differences:
            kind = "not replayed" if differences < 0 else "replay differs"
            found.append(Violation("O8", kind, evidence.judged, f"journal {number}: {differences} differences"))
    if len(evidence.replay) < len(evidence.journals):
        missing = len(evidence.journals) - len(evidence.replay)
        found.append(Violation("O8", "not replayed", evidence.judged, f"{missing} journals were not replayed"))
    return found


def o9_limits(evidence: Evidence) -> list[Violation]:
    """What the venue saw stays within the settings: size, position, leverage, round trips, cooldown, pace of orders.

    Notionals may be 2 % above, as the price moves between decision and fill. A round trip counts as the second from
    what was open at the venue when its entry was sent. Settings that do not exist take 20 open orders, 10 a second.
    The daily loss is what was realised since the session began, the day, or the last `resume` of a person, and binds
    entries sent 2 s later. The price of an entry's bar is no further from the mark than is set, and 1 % for its way.
    """
    reading = reading_of(evidence)
    entered = [(placed, _stood(reading, placed)) for each in reading.placed_by_id.values() for placed in each[:1]]
    entered = [(placed, moment) for placed, moment in entered if placed.is_entry]
    return [
        *_too_large(reading, entered),
        *_second_trips(entered),
        *_too_early(reading, entered),
        *_off_mark(reading, entered),
        *_too_many(reading),
        *_loss_passed(reading, entered),
        *_leverage_raised(reading),
    ]


def _stood(reading: Reading, placed: Placed) -> Moment | None:
    """How the symbol stood at the venue when an order was sent, before it was accepted."""
    post = reading.posts.get(placed.client_id)
    sent = min(post.sent, placed.time) if post else placed.time
    moments, symbol = reading.moments, placed.asked["symbol"]
    last = bisect.bisect_right(moments, sent, key=lambda moment: moment.time)
    while last and (moments[last - 1].row > placed.row or moments[last - 1].symbol != symbol):
        last -= 1
    return moments[last - 1] if last else None


Entries = list[tuple[Placed, Moment | None]]


def _largest(reading: Reading, wallet: Decimal) -> Decimal:
    settings = reading.evidence.settings
    by_capital = Decimal(str(settings.get("max_notional_multiple", 2))) * Decimal(str(settings.get("capital", 0)))
    return min(by_capital, Decimal(str(settings.get("leverage", 1))) * wallet) * PRICE_MOVES


def _too_large(reading: Reading, entered: Entries) -> list[Violation]:
    found = []
    for placed, _ in entered:
        tick, step = reading.units[placed.asked["symbol"]]
        price = placed.asked["price"] * tick or placed.last
        notional, most = placed.asked["quantity"] * step * price, _largest(reading, placed.wallet)
        if notional > most:
            text = f"{placed.client_id}: {notional} is above {most}"
            found.append(Violation("O9", "order too large", placed.time, text))
    largest = _largest(reading, max((placed.wallet for placed, _ in entered), default=ZERO))
    revived, unforeseen = _revived(reading, entered), Counter[str]()
    for fill in reading.fills:
        if not fill.held:
            del unforeseen[fill.symbol]
        elif fill.client_id in revived:
            unforeseen[fill.symbol] += fill.quantity
        foreseen = abs(fill.ours) - unforeseen[fill.symbol]
        if fill.whose == "ours" and foreseen * fill.price > largest and fill.ours * fill.side > 0:
            text = f"{fill.symbol}: {foreseen * fill.price} is above {largest}"
            found.append(Violation("O9", "position too large", fill.time, text))
    return found


def _revived(reading: Reading, entered: Entries) -> set[str]:
    """Entries that a fault held up until a journal had told them as never placed: the next may be there by then.

    That they are told so too early is judged by itself.
    """
    told, found = dict[str, int](), set[str]()
    for _, row in reading.of_kind("Alert"):
        if row.body["code"] == "NOT_PLACED":
            told.setdefault(row.body["text"].split()[0], row.time)
    for placed, _ in entered:
        post = reading.posts.get(placed.client_id)
        struck = reading.struck_requests.get((post.arrived, f"POST {post.path}"), {}) if post else {}
        if struck.get("do") in HOLDING and told.get(placed.client_id, NEVER) <= placed.time:
            found.add(placed.client_id)
    return found


def _second_trips(entered: Entries) -> list[Violation]:
    found = []
    for placed, moment in entered:
        if moment is None:
            continue
        trip = _trip_of(placed.client_id)[0]
        others = [name for name in moment.entries if _trip_of(name)[0] != trip]
        if moment.ours or others:
            text = f"{placed.client_id} while {moment.ours or others[0]} was open"
            found.append(Violation("O9", "second round trip", placed.time, text))
    return found


def _off_mark(reading: Reading, entered: Entries) -> list[Violation]:
    """Entries by a bar that ended at a price far from the mark, as it was when they were meant and when they came."""
    most = Decimal(str(reading.evidence.settings.get("max_mark_gap_bps", 0))) / 10_000 + MARK_MOVES
    marks = [(row["time"], Decimal(row["stand"][3])) for row in reading.evidence.of_kind("market")]
    found = []
    for placed, _ in entered:
        for journal, row in reading.intents.get(placed.client_id, [])[:1]:
            bar = reading.bars[journal].get(row.body["bar_number"])
            at = bisect.bisect_right(marks, row.time, key=lambda each: each[0])
            known = [mark for mark in (*(mark for _, mark in marks[at - 1 : at]), placed.mark) if mark]
            price = bar["close"] * reading.units[placed.asked["symbol"]][0] if bar else ZERO
            if price and len(known) > 1 and all(abs(price - mark) > most * mark for mark in known):
                text = f"{placed.client_id} by a bar that ended at {price}, the mark was {known[-1]}"
                found.append(Violation("O9", "off the mark", placed.time, text))
    return found


def _sent(reading: Reading, placed: Placed) -> int:
    post = reading.posts.get(placed.client_id)
    return post.sent if post else placed.time


def _too_early(reading: Reading, entered: Entries) -> list[Violation]:
    cooldown = int(reading.evidence.settings.get("cooldown_bars", 0))
    most = int(reading.evidence.settings.get("max_trades_per_day", 10**9))
    exits = [fill.time for fill in reading.fills if not fill.held]
    found, begun = [], Counter[int]()
    for placed, _ in entered:
        rested = _bars_since_exit(reading, placed, exits)
        if rested is not None and rested <= cooldown:
            text = f"{placed.client_id} {rested} bars after an exit, {cooldown} are a cooldown"
            found.append(Violation("O9", "in cooldown", placed.time, text))
    counted = {fill.client_id: fill.time // DAY_MS for fill in reversed(reading.fills)}
    for day in (counted[placed.client_id] for placed, _ in entered if placed.client_id in counted):
        begun[day] += 1
    for day, many in begun.items():
        if many > most:
            text = f"{many} round trips in a day, {most} are allowed"
            found.append(Violation("O9", "trades a day", day * DAY_MS, text))
    return found


def _bars_since_exit(reading: Reading, placed: Placed, exits: list[int]) -> int | None:
    """Bars that closed from the last exit on up to the one whose signal an entry is; None where bars are not known.

    The exit counts from its fill at the venue: who hears of it later waits longer.
    """
    intents = reading.intents.get(placed.client_id, [])
    last = bisect.bisect_right(exits, _sent(reading, placed))
    if not intents or not last:
        return None
    journal, row = intents[0]
    closes = [bar["close_time"] for index, bar in reading.bars[journal].items() if index <= row.body["bar_number"]]
    exit_time = exits[last - 1]
    return sum(close >= exit_time for close in closes) if closes and closes[0] < exit_time else None


def _too_many(reading: Reading) -> list[Violation]:
    settings, found = reading.evidence.settings, []
    most = int(settings.get("max_open_orders", OPEN_ORDERS))
    crowded = next((moment for moment in reading.moments if moment.open > most), None)
    if crowded is not None:
        text = f"{crowded.open} orders were open, {most} are allowed"
        found.append(Violation("O9", "open orders", crowded.time, text))
    rate = int(settings.get("max_orders_per_s", ORDERS_PER_S))
    asked = [each for each in reading.evidence.requests if each.method == "POST" and each.client_id]
    times = sorted(each.arrived for each in asked if each.arrived >= 0)
    for first, last in zip(times, times[rate:], strict=False):
        if last - first < 1_000:
            found.append(Violation("O9", "order storm", last, f"more than {rate} orders in a second were asked for"))
            break
    return found


def _loss_passed(reading: Reading, entered: Entries) -> list[Violation]:
    settings = reading.evidence.settings
    limit = Decimal(str(settings.get("max_daily_loss_fraction", 1))) * Decimal(str(settings.get("capital", 0)))
    resumed = [row.time for _, row in reading.of_kind("Operator") if row.body["action"] == "resume"]
    times, made = _made(reading)
    found = []
    for placed, _ in entered:
        sent = _sent(reading, placed)
        since = max([sent // DAY_MS * DAY_MS, *(time for time in resumed if time <= sent)])
        day, now = bisect.bisect_left(times, since), bisect.bisect_right(times, sent - BARE_MS)
        loss = made[day] + _open_profit(reading, since) - made[now]
        if now > day and loss >= limit > 0:
            text = f"{placed.client_id} after a loss of {loss} this day or since a resume, {limit} is the limit"
            found.append(Violation("O9", "daily loss passed", placed.time, text))
    return found


def _made(reading: Reading) -> tuple[list[int], list[Decimal]]:
    """When fills and payments of funding were, and what all before each had made; at last all of them."""
    times, made = list[int](), [ZERO]
    before = Decimal(reading.start.get("wallet", "0"))
    for row in reading.evidence.of_kind("fill", "account"):
        change, before = Decimal(row["wallet"]) - before, Decimal(row["wallet"])
        if row["kind"] == "fill" or row["reason"] == "FUNDING_FEE":
            is_fill = row["kind"] == "fill"
            times.append(row["time"])
            made.append(made[-1] + (Decimal(row["realised"]) - Decimal(row["fee"]) if is_fill else change))
    return times, made


def _open_profit(reading: Reading, time: int) -> Decimal:
    """What the position that was open at a time had gained by then, at the worst price within 15 s; 0 without one."""
    held = cost = ZERO
    for fill in reading.fills:
        if fill.time >= time or fill.symbol != reading.symbol:
            continue
        is_more = fill.held * fill.side > 0 and abs(fill.held) > abs(held) and held * fill.held >= 0
        part = fill.held / held if held and not is_more and held * fill.held > 0 else ZERO
        cost = cost + fill.signed * fill.price if is_more else cost * part if part else fill.held * fill.price
        held = fill.held
    near = [Decimal(price) for _, price, _, at, _ in reading.evidence.tape if abs(at - time) <= entries.VALUED_MS]
    return min((held * price - cost for price in near), default=ZERO) if held else ZERO


def _leverage_raised(reading: Reading) -> list[Violation]:
    """Whether we, and not a person, set more leverage than the settings say."""
    asked = {request.arrived for request in reading.evidence.requests if request.path.endswith("/leverage")}
    most = reading.evidence.settings.get("leverage", 1)
    return [
        Violation("O9", "leverage", row["time"], f"leverage was set to {row['leverage']}, {most} is the setting")
        for row in reading.evidence.of_kind("settings")
        if row["time"] in asked and row["leverage"] > most
    ]


# --- O10: politeness -------------------------------------------------------------------------------------------------


def o10_polite(evidence: Evidence) -> list[Violation]:
    """Nothing is sent while an answer's Retry-After runs, no ban is provoked, at most 80 % of the weight is used.

    A 429 that does not say how long it lasts counts as 5 s, a 418 as a minute. A process that has died leaves the
    pause to the next one of its run, unless that can't know of it. A 418 is planned where a strike that imposes one is
    felt while the request is on its way: it may have been sent before, and held up.
    """
    found = _too_heavy(evidence)
    for request in evidence.requests:
        if request.status == 418 and not _is_planned_ban(evidence, request):
            found.append(Violation("O10", "banned", request.answered, f"{request.method} {request.path}: 418"))
    return _impatient(evidence) + found


def _too_heavy(evidence: Evidence) -> list[Violation]:
    """The most weight used in each minute of the venue's clock in which it was too much, without what others used.

    While that clock is wrong, and a minute after, the weight of the minute before and after may be this one's.
    """
    most: dict[int, Request] = {}
    others: dict[int, int] = {}
    skewed = [(strike.begin, strike.until) for strike in evidence.strikes if strike.kind == "skew_clock"]
    for strike in evidence.strikes:
        if strike.kind == "spend_weight":
            minute = strike.begin // 60_000
            others[minute] = others.get(minute, 0) + int(strike.facts["with"]["weight"])
    for request in evidence.requests:
        minute = request.arrived // 60_000
        is_skewed = any(begin <= request.arrived < end + 60_000 for begin, end in skewed)
        near = range(minute - 1, minute + 2) if is_skewed else (minute,)
        allowed = WEIGHT + sum(others.get(each, 0) for each in near)
        if request.used_weight > max(allowed, most[minute].used_weight if minute in most else 0):
            most[minute] = request
    found = [
        Violation("O10", "weight", each.answered, f"{each.used_weight} of weight used, {WEIGHT} are allowed")
        for each in most.values()
    ]
    return found or _goes_on_asking(evidence, skewed)


def _goes_on_asking(evidence: Evidence, skewed: list[tuple[int, int]]) -> list[Violation]:
    """The first minute of which much was used after an answer had said that 80 % was, whoever had used it."""
    told: dict[int, tuple[int, int]] = {}
    spent = [each for each in evidence.strikes if each.kind == "spend_weight"]
    for request in sorted(evidence.requests, key=lambda each: each.answered):
        if request.used_weight < WEIGHT or any(begin <= request.arrived < end + 60_000 for begin, end in skewed):
            continue
        minute = request.arrived // 60_000
        since, used = told.setdefault(minute, (request.answered, request.used_weight))
        later = [each for each in spent if each.begin // 60_000 == minute and each.begin > since]
        more = request.used_weight - used - sum(int(each.facts["with"]["weight"]) for each in later)
        lives = zip(evidence.lives, evidence.lives[1:], strict=False)
        starts = [life.begin for dead, life in lives if dead.how == "killed" and since < life.begin <= request.arrived]
        allowed = WEIGHT_AFTER + WEIGHT_TO_START * max(len(starts) - 1, 0)
        if more > allowed:
            text = f"{more} of weight used after {used} were known to be, {allowed} are allowed"
            return [Violation("O10", "weight", request.answered, text)]
    return []


def _is_planned_ban(evidence: Evidence, request: Request) -> bool:
    for strike in evidence.strikes:
        bans = strike.facts.get("code") == 418 or strike.facts.get("status") == 418 or "418" in strike.kind
        lasts = max(strike.until, strike.begin + int(strike.facts.get("for_s", 0) * 1000))
        if bans and strike.begin <= request.answered and (lasts == strike.begin or request.arrived <= lasts):
            return True
    return False


def _impatient(evidence: Evidence) -> list[Violation]:
    """The first request that was sent though an answer forbade it, by its Retry-After or, without one, its status."""
    found, sent = [], [request.sent for request in evidence.requests]
    for answer in evidence.requests:
        if not is_heard(answer) or not (answer.retry_after_s > 0 or forbids(answer)):
            continue
        lost = [life.end for life in evidence.lives if _is_pause_lost(evidence, answer.answered, life)]
        until = min([answer.answered + pause_ms(answer), *lost])
        first = bisect.bisect_right(sent, answer.answered)
        if first < len(sent) and sent[first] < until:
            early = evidence.requests[first]
            after, pause = early.sent - answer.answered, pause_ms(answer) // 1000
            told = f"{pause} s of Retry-After" if answer.retry_after_s else f"the {pause} s after a {answer.status}"
            text = f"{early.method} {early.path} {after} ms into {told}"
            found.append(Violation("O10", "impatient", early.sent, text))
    return found[:1]


def _is_pause_lost(evidence: Evidence, told: int, life: Life) -> bool:
    """Whether a pause that was told at a time is unknown after a death: the next engine is another run's, the disk took
    no note of it or had not flushed it, or the machine's clock, by which it is noted, was set meanwhile."""
    if life.end < told:
        return False
    later = min((each for each in evidence.lives if each.begin >= life.end), key=lambda each: each.begin, default=None)
    if later is None or later.run != life.run:
        return True
    for strike in evidence.strikes:
        is_unwritten = strike.kind == "disk_full" and strike.begin <= told <= strike.until
        is_unflushed = bool(strike.facts.get("lost")) and strike.begin <= life.end
        is_set = strike.kind == "clock" and any(told <= at <= later.begin for at in (strike.begin, strike.until))
        if is_unwritten or is_unflushed or is_set:
            return True
    return False


# --- O11: bars -------------------------------------------------------------------------------------------------------


def o11_bars(evidence: Evidence) -> list[Violation]:
    """Trades in the journals are the tape's, bars what the conventions make of them, and tainted ones enter nothing.

    A bar is held, bit for bit, against a fold of the tape's own trades, those left out that its journal never had: a
    jump in their ids taints. A journal that begins within a day must begin where the tape's bars stand. The market was
    heard to the end, and in time; a hole is filled unless old trades could not be had; see `market`.
    """
    reading = reading_of(evidence)
    found = market.unheard(reading)
    for number, journal in enumerate(evidence.journals):
        found += _bars_of(reading, journal, reading.bars[number])
    for number, row in reading.of_kind("OrderIntent"):
        bar = reading.bars[number].get(row.body["bar_number"])
        if row.body["purpose"] == "e" and bar is not None and bar["tainted"]:
            text = f"{row.body['order']['client_order_id']} by tainted bar {row.body['bar_number']}"
            found.append(Violation("O11", "entry on a tainted bar", row.time, text))
    return found


def _bars_of(reading: Reading, journal: list[JournalRow], bars: dict[int, Json]) -> list[Violation]:
    folder, tape, found = reading.folder(), reading.tape, list[Violation]()
    for row in journal:
        if row.kind == "BarResumePoint":
            found += _phase_differs(reading, row.body)
            phase = row.body
            folder.begin_at(phase["day"], phase["number"], phase["progress"], phase["first_id"])
        elif row.kind == "Trades":
            for trade in trades_of(row.body):
                known = tape.get(trade[0])
                if known is not None and known == trade:
                    folder.take(known)
                elif not any(each.kind == "trade differs" for each in found):
                    text = f"trade {trade}, on the tape {known}"
                    found.append(Violation("O11", "trade differs", row.time, text))
    told = [[bars[index][name] for name in BAR_FIELDS] for index in sorted(bars)]
    return found + _differing(folder.bars, told)


def _differing(wanted: list[list[int]], told: list[list[int]]) -> list[Violation]:
    """The first bar that is not as it must be, and how many there are too few or too many."""
    for made, said in zip(wanted, told, strict=False):
        if made != said:
            names = [name for name, a, b in zip(BAR_FIELDS, made, said, strict=True) if a != b]
            kind = "not tainted" if made[15] and not said[15] else "bar differs"
            values = [(made[BAR_FIELDS.index(name)], said[BAR_FIELDS.index(name)]) for name in names]
            return [Violation("O11", kind, said[3], f"bar {said[1]}: {dict(zip(names, values, strict=True))}")]
    if len(wanted) != len(told):
        time = (wanted or told)[-1][3]
        return [Violation("O11", "bar missing", time, f"trades make {len(wanted)} bars, the journal has {len(told)}")]
    return []


def _phase_differs(reading: Reading, phase: Json) -> list[Violation]:
    folder = reading.folder()
    for number, trade in reading.tape.items():
        if number >= phase["first_id"]:
            break
        folder.take(trade)
    made, said = (folder.day, folder.number, folder.progress), (phase["day"], phase["number"], phase["progress"])
    if made == said or folder.day < phase["day"]:
        return []
    text = f"at trade {phase['first_id']} the tape's day, number and progress are {made}, the journal begins at {said}"
    return [Violation("O11", "phase differs", phase["time"], text)]


# --- O12 to O14: alive ------------------------------------------------------------------------------------------------


def o12_alive(evidence: Evidence) -> list[Violation]:
    """No engine fails or ends before its time; a minute after faults stop, it could trade, or says why not.

    It could trade: streams are up, no outcome is unknown, and each signal that comes a minute after the last fault that
    was felt, between two faults too, gives an entry, unless something outside of the engine bears out its refusal; see
    `entries`. It says why not: the breaker is not ACTIVE, a person must resume, or the account differs at the venue; a
    rule on losses or counts that trips has been reached by the venue's log. And it asks
    little meanwhile: an incident is a strike, until the next one begins; and repeats nothing without end, see
    `_repeated`. A session ends when its time is over, and flat where it was to; a user stream is dialled again that
    does not tell an accepted order, or whose key has expired, which was told; and a clock that is refused is measured.
    """
    reading = reading_of(evidence)
    found = _not_resumed(reading) + _tripped_falsely(reading)
    found += _too_many_questions(reading) + _failed(reading) + _ended_early(evidence) + _repeated(reading)
    found += _ended_open(reading) + _never_ended(reading) + _not_dialled_again(reading) + _clock_wrong(evidence)
    if evidence.judged < evidence.quiet + RESUMED_MS or not evidence.lives:
        return found
    last = evidence.lives[-1]
    if last.how in ("killed", "failed"):
        is_new = evidence.judged - last.end <= RESUMED_MS and last.end <= evidence.quiet
        text = f"the engine was {last.how} at {last.end}: {last.reason}"
        return found if is_new else [*found, Violation("O12", "dead", last.end, text)]
    if last.how == "running":
        found += _silent(reading)
    if _is_explicit(reading):
        return found
    return found + _stands(reading, evidence.quiet + RESUMED_MS, evidence.judged if last.how == "running" else last.end)


def _failed(reading: Reading) -> list[Violation]:
    """The first engine that failed by itself, but for starts that could not reach the exchange: they are tried again.

    No other fault of the plans asks for that.
    """
    failed = [
        life
        for life in reading.evidence.lives
        if life.how == "failed" and not (life.reason.startswith(UNREACHED) and _could_not_start(reading, life))
    ]
    text = "" if not failed else f"{len(failed)} engines failed, the first with {failed[0].reason}"
    return [Violation("O12", "engine failed", failed[0].end, text)] if failed else []


def _could_not_start(reading: Reading, life: Life) -> bool:
    """Whether an engine never had the account read, and at its end REST was down, or a fault struck what it asked."""
    evidence = reading.evidence
    rows = evidence.journals[life.run] if life.run < len(evidence.journals) else []
    if any(row.kind == "Snapshot" and life.begin <= row.time <= life.end for row in rows):
        return False
    since = max(life.begin, life.end - SETTLED_MS)
    struck = [row["time"] for row in evidence.of_kind("fault") if _REQUEST.match(str(row.get("struck", "")))]
    down = any(begin <= life.end and until >= since for begin, until in evidence.rest_down)
    return down or any(since <= time <= life.end for time in struck)


_REQUEST = re.compile("GET |POST |PUT |DELETE ")
"""How the log names a request that a fault struck."""


def _ended_early(evidence: Evidence) -> list[Violation]:
    """A session that ended before its time, and that no person stopped; where an account has several runs, each has its
    own time."""
    last, lasts_ms = evidence.lives[-1] if evidence.lives else None, 1000 * evidence.settings.get("duration_s", 0.0)
    if last is None or len(evidence.journals) > 1 or last.how != "ended":
        return []
    if last.reason != "DURATION_END" and (not lasts_ms or _is_stopped(evidence)):
        return []
    early = evidence.opened + int(lasts_ms) - last.end
    text = f"the session ended {early} ms before its time: {last.reason or 'nobody says why'}"
    return [Violation("O12", "ended early", last.end, text)] if early > EARLY_MS else []


def _is_stopped(evidence: Evidence) -> bool:
    """Whether a person gave a command that may end a session."""
    commands = (row.body["action"] for _, row in reading_of(evidence).of_kind("Operator"))
    return any(action not in GOING_ON for action in commands)


def _clock_wrong(evidence: Evidence) -> list[Violation]:
    """Timestamps are refused again and again: the first refusal has the clock measured."""
    times = sorted(each.answered for each in evidence.requests if each.code == TOO_LATE and each.answered >= 0)
    for first, last in zip(times, times[MOST_TOO_LATE:], strict=False):
        if last - first < FELT_FOR_MS:
            text = f"more than {MOST_TOO_LATE} timestamps were refused in a minute"
            return [Violation("O12", "clock wrong", last, text)]
    return []


def _ended_open(reading: Reading) -> list[Violation]:
    """A session that was to end flat, and ended with a position of ours."""
    evidence = reading.evidence
    last, policy = evidence.lives[-1] if evidence.lives else None, evidence.settings.get("on_duration_end")
    if last is None or (last.how, last.reason, policy) != ("ended", "DURATION_END", "flatten"):
        return []
    held = {fill.symbol: fill.ours for fill in reading.fills if fill.time <= last.end}
    return [
        Violation("O12", "ended open", last.end, f"{symbol}: the session ended with {ours}, it was to be flat")
        for symbol, ours in held.items()
        if ours
    ]


def _never_ended(reading: Reading) -> list[Violation]:
    """A session whose time is long over, a minute after the last fault; a halt does not keep it from ending."""
    evidence = reading.evidence
    over = evidence.opened + int(1000 * evidence.settings.get("duration_s", 0.0))
    late, is_alone = evidence.judged - max(over, evidence.quiet) - RESUMED_MS, len(evidence.journals) == 1
    runs = bool(evidence.lives) and evidence.lives[-1].how == "running" and evidence.settings.get("duration_s", 0.0) > 0
    if not runs or not is_alone or late < 0:
        return []
    return [Violation("O12", "never ended", over, f"the session runs {evidence.judged - over} ms after its time")]


def _not_dialled_again(reading: Reading) -> list[Violation]:
    """An accepted order of which a silent user stream tells nothing has that stream dialled again."""
    evidence, found = reading.evidence, []
    dials = reading.user_dials
    for client_id, placed in reading.placed_by_id.items():
        post = reading.posts.get(client_id)
        if post is None or post.status != 200 or post.answered < 0:
            continue
        end = post.answered + DIALLED_MS
        is_dialled = any(post.sent <= time <= end for time in dials)
        if not is_dialled and _only_deaf(evidence, placed[0].time, end):
            text = f"{client_id} was accepted, the stream said nothing for {DIALLED_MS} ms, and was not dialled again"
            found.append(Violation("O12", "stream not dialled", post.answered, text))
    for post, end in (each for key in reading.keys_gone for each in reading.untold(key)):
        if not any(post.sent <= time <= end for time in dials):
            text = f"{post.client_id} was accepted, its stream had lost its key, and no other was opened"
            found.append(Violation("O12", "stream not dialled", post.answered, text))
    for key in reading.keys_gone:
        end = key.begin + KEY_TOLD_MS
        is_alive = any(life.begin + SETTLED_MS <= key.begin and end < life.end for life in evidence.lives)
        if is_alive and reading.is_told(key) and not any(key.begin <= time <= end for time in dials):
            text = f"a key expired, which was told, and no stream was opened for {KEY_TOLD_MS} ms"
            found.append(Violation("O12", "stream not dialled", key.begin, text))
    return found[:1] + market.not_dialled_again(evidence)


def _only_deaf(evidence: Evidence, begin: int, end: int) -> bool:
    """Whether the user stream brings nothing in a stretch, and nothing else is wrong in it or shortly before."""
    deaf = [each for each in evidence.strikes if each.kind == "deaf" and each.facts.get("category") == "private"]
    held = [each for each in deaf if each.begin + 1_000 <= begin and end <= each.until]
    others = [(each.begin, each.until) for each in evidence.strikes if each not in held]
    others += [(row["time"], row["time"]) for row in evidence.of_kind("fault")]
    return bool(held) and not any(since <= end and until >= begin - SETTLED_MS for since, until in others)


def _too_many_questions(reading: Reading) -> list[Violation]:
    return [
        Violation("O12", "questions", begin, f"{asked} snapshots after a strike, {QUESTIONS} are allowed")
        for begin, asked in _questions(reading)
        if asked > QUESTIONS
    ]


def _questions(reading: Reading) -> list[tuple[int, int]]:
    """How often the position was asked for from each strike to the next."""
    asked = [request.sent for request in reading.evidence.requests if request.path.endswith("positionRisk")]
    begins = sorted({strike.begin for strike in reading.evidence.strikes})
    ends = [*begins[1:], reading.evidence.judged + 1]
    return [
        (begin, bisect.bisect_left(asked, end) - bisect.bisect_left(asked, begin))
        for begin, end in zip(begins, ends, strict=False)
    ]


def _repeated(reading: Reading) -> list[Violation]:
    """What is done over and over within a minute: the first of each kind.

    Orders for one purpose that are refused with one code, and by a filter sooner, unless a fault refused them (parts of
    one exit, sent before the first was answered, count as one); streams of one kind that are opened, or can't be; one
    order that is looked up; and all that is read.
    """
    times: dict[tuple[str, int], list[int]] = {}
    told_at: dict[tuple[str, int], int] = {}
    for request in reading.evidence.requests:
        for what in _counted(reading, request):
            if "refusals" not in what[0] or request.sent > told_at.get(what, -1):
                times.setdefault(what, []).append(request.sent)
                told_at[what] = request.answered
    for time, url in (*reading.evidence.dials, *reading.evidence.undialled):
        kind = next((kind for kind in ("private", "market", "public") if kind in url), "other")
        times.setdefault((f"dials of {kind}", DIALS), []).append(time)
    found: dict[str, Violation] = {}
    for (what, most), when in times.items():
        for first, last in zip(sorted(when), sorted(when)[most:], strict=False):
            if last - first < 60_000:
                text = f"{what}: more than {most} in a minute"
                found.setdefault(what.split()[0], Violation("O12", "repeated", last, text))
    return list(found.values())


def _counted(reading: Reading, request: Request) -> Iterable[tuple[str, int]]:
    """What a request is counted as, each with how often that may be in a minute."""
    is_order = request.path in PLACES
    if request.method == "GET":
        yield "reads", READS
        if is_order and request.client_id:
            yield f"look-ups of {request.client_id}", LOOKUPS
    elif request.method == "POST" and is_order and 400 <= request.status < 500:
        purpose = _trip_of(request.client_id)[1]
        is_fault = (request.arrived, f"POST {request.path}") in reading.struck_requests
        by_filter = request.code in FILTER_CODES and not is_fault
        yield f"refusals of {purpose} with {request.code}", REFUSED_BY_FILTERS if by_filter else REFUSALS


def _silent(reading: Reading) -> list[Violation]:
    """The last words of a journal are not a minute older than the last trade on the tape."""
    evidence = reading.evidence
    rows = evidence.journals[-1] if evidence.journals else []
    said, traded = max((row.time for row in rows), default=0), evidence.tape[-1][3] if evidence.tape else 0
    if traded - said <= RESUMED_MS:
        return []
    return [Violation("O12", "silent", said, f"the journal says nothing in the last {traded - said} ms of the tape")]


def _is_explicit(reading: Reading) -> bool:
    """Whether a halt stands, or the venue's log shows an account that differs."""
    standing = _halts(reading).standing
    halted = any(why in standing for why in ("breaker", "hand", "key", "foreign"))
    return halted or entries.differs(reading, reading.evidence.judged)


def _stands(reading: Reading, since: int, until: int) -> list[Violation]:
    """What stands in the way of entries since a time, of a session that lived until another."""
    found = []
    for why, (begin, _) in _halts(reading).standing.items():
        if why.startswith(("link", "unknown")) and until >= since and until - begin > RESUMED_MS:
            kind = "stream down" if why.startswith("link") else "still unknown"
            found.append(Violation("O12", kind, begin, f"{why} since {begin}"))
    return found


def _not_resumed(reading: Reading) -> list[Violation]:
    """The first signal that gave no entry though nothing was in the way, and how many there are."""
    halts = [each for each in _halt_times(reading) if each[0] in ("breaker", "operator", "hand", "key")]
    missed = entries.missed(reading, halts)
    text = f"{len(missed)} signals gave no entry, the first: {missed[0].code}" if missed else ""
    return [Violation("O12", "not resumed", missed[0].time, text)] if missed else []


def _halt_times(reading: Reading) -> list[entries.Halt]:
    return [(stop.why, stop.begin, stop.end) for stop in _halts(reading).all()]


def _tripped_falsely(reading: Reading) -> list[Violation]:
    return [
        Violation("O12", "false halt", time, f"{rule} tripped, by the venue's log it was not reached")
        for time, rule in entries.false_trips(reading)[:1]
    ]


def o13_not_vacuous(evidence: Evidence) -> list[Violation]:
    """There is something to judge: a venue, trades, a journal with bars, and requests that the venue got.

    Halts, sessions that never end and entries that are not sent are rates: see `measure` and `campaign_violations`.
    Where no fault was planned, though, each signal gives an entry, or a refusal that something bears out, and nothing
    halts.
    """
    reading, found = reading_of(evidence), []
    hollow = {
        "venue": not reading.start,
        "tape": not any(trade[3] >= evidence.opened for trade in evidence.tape),
        "journal": not any(reading.bars),
        "requests": not any(request.arrived >= 0 for request in evidence.requests),
    }
    for what in (name for name, is_hollow in hollow.items() if is_hollow):
        found.append(Violation("O13", "hollow", evidence.opened, f"nothing to judge: {what}"))
    facts = measure(evidence)
    if not evidence.strikes and facts["entries_sent"] < facts["entries_expected"]:
        text = f"{facts['entries_sent']} of {facts['entries_expected']} entries were sent, without any fault"
        found.append(Violation("O13", "entries missing", evidence.opened, text))
    return found


def o14_resources(evidence: Evidence) -> list[Violation]:
    """The loop is on time where no stall was planned, or trading is halted.

    The simulator's own sessions have no lags to judge: its clock stands still while anything runs.
    Only lags above 100 ms are noted, so the percentile is one of time: at p99 the loop is late for 1 % of it. Apart
    from that, nothing holds the loop for 5 s.
    """
    standing = _halts(reading_of(evidence)).standing
    lags, halted = _unplanned(evidence), any(why in standing for why in ("breaker", "hand", "key"))
    found = [
        Violation("O14", "hung", time, f"the loop was held for {lag} ms, which nobody planned")
        for time, lag in lags
        if lag > HUNG_MS
    ]
    late = _percentile(evidence, lags)
    if late > LAG_MS and not halted:
        found.append(Violation("O14", "late", lags[0][0], f"loop lag p99 {late} ms, {LAG_MS} are allowed"))
    return found


def _unplanned(evidence: Evidence) -> list[tuple[int, int]]:
    """Lags that no planned stall explains."""
    planned = [
        (strike.begin, strike.until)
        for strike in evidence.strikes
        if strike.kind in STALLS or strike.facts.get("row") in ("A13", "E6", "E7")
    ]
    return [
        (time, lag)
        for time, lag in evidence.lags
        if not any(begin <= time <= until + lag + 1_000 for begin, until in planned)
    ]


def _percentile(evidence: Evidence, lags: list[tuple[int, int]]) -> int:
    """The lag that the loop exceeds for 1 % of the time that engines lived; 0 where it is at most 100 ms."""
    spare = sum(life.end - life.begin for life in evidence.lives) / 100
    for _, lag in sorted(lags, key=lambda each: -each[1]):
        spare -= lag
        if spare < 0:
            return lag
    return 0


# --- O15: explained ---------------------------------------------------------------------------------------------------

_ASKED = "symbol side order_type quantity price trigger_price time_in_force reduce_only close_position working_type"
ASKED = _ASKED.split()
"""What an intent and the order that the venue accepted must share."""


def o15_explained(evidence: Evidence) -> list[Violation]:
    """Each order that the venue accepted is the intent of that name, field by field, and the intent has a cause.

    An entry's is a closed bar whose signal is of its side, and that no gate refused; any other order's is a reason.
    """
    reading, found = reading_of(evidence), []
    refused = {(number, row.body["bar_number"]) for number, row in reading.of_kind("Refusal")}
    for client_id, placed in reading.placed_by_id.items():
        intents = reading.intents.get(client_id)
        if not intents:
            if not reading.may_be_unknown(placed[0]):
                found.append(Violation("O15", "no intent", placed[0].time, f"{client_id} stands in no journal"))
            continue
        journal, row = intents[0]
        asked, meant = placed[0].asked, row.body["order"]
        plain = {"working_type"} if not meant.get("trigger_price") else set()  # of conditional orders alone
        names = [name for name in ASKED if name not in plain and asked.get(name) != meant.get(name)]
        if names:
            text = f"{client_id}: {', '.join(names)} are not as intended"
            found.append(Violation("O15", "order differs", placed[0].time, text))
        found += _uncaused(reading, journal, row, refused)
    return found


def _uncaused(reading: Reading, journal: int, row: JournalRow, refused: set[tuple[int, int]]) -> list[Violation]:
    body, client_id = row.body, row.body["order"]["client_order_id"]
    kind = ""
    if body["purpose"] != "e":
        kind = "" if body["reason"] else "no reason"
    else:
        bar = reading.bars[journal].get(body["bar_number"])
        signal = bar["decision"].get("signal", 0) if bar else 0
        if bar is None or signal != body["order"]["side"]:
            kind = "no signal"
        elif (journal, body["bar_number"]) in refused:
            kind = "sent though refused"
    return [Violation("O15", kind, row.time, f"{client_id}: {kind}")] if kind else []


ORACLES: dict[str, Callable[[Evidence], list[Violation]]] = {
    "O1": o1_positions,
    "O2": o2_fills,
    "O3": o3_orders,
    "O4": o4_orphans,
    "O5": o5_protected,
    "O6": o6_halts,
    "O7": o7_written_ahead,
    "O8": o8_replay,
    "O9": o9_limits,
    "O10": o10_polite,
    "O11": o11_bars,
    "O12": o12_alive,
    "O13": o13_not_vacuous,
    "O14": o14_resources,
    "O15": o15_explained,
}


# --- a campaign -------------------------------------------------------------------------------------------------------


def measure(evidence: Evidence) -> Json:
    """Return what is a fact of one session and a rule only of many, as plain JSON."""
    reading = reading_of(evidence)
    bare = [(bare, bare.end - bare.begin) for bare in reading.bare]
    struck = [ms for each, ms in bare if reading.is_hampered(each.begin - FELT_FOR_MS, each.begin + BARE_MS)]
    calm = [ms for each, ms in bare if not reading.is_hampered(each.begin - FELT_FOR_MS, each.begin + BARE_MS)]
    expected, sent = entries.expected(reading, _halt_times(reading))
    lives = evidence.lives
    return {
        "seed": evidence.seed,
        "recoverable": _is_recoverable(reading),
        "strikes": len(evidence.strikes),
        "deaths": len(reading.deaths),
        "halted": _is_halted(reading),
        "held_back": is_halted_by_faults(reading),
        "ended": bool(lives) and lives[-1].how == "ended",
        "entries_clean": len(evidence.clean_entries or ()),
        "entries_expected": expected,
        "entries_sent": sent,
        "entries": len(entry_times(evidence)),
        "met": _met(reading),
        "orders": sum(len(placed) for placed in reading.placed_by_id.values()),
        "fills": len(reading.fills),
        "round_trips": len(reading.trips),
        "bare_calm_ms": max(calm, default=0),
        "bare_struck_ms": max(struck, default=0),
        "questions": max((asked for _, asked in _questions(reading)), default=0),
        "weight": max((request.used_weight for request in evidence.requests), default=-1),
        "lag_p99_ms": _percentile(evidence, evidence.lags),
    }


def _is_recoverable(reading: Reading) -> bool:
    """Whether a session must go on: after its faults alone, unless its engines died so often that it waits.

    After three deaths in ten minutes the guardian starts a caretaker.
    """
    deaths = reading.deaths
    is_crashing = any(last - first <= CRASHES_WITHIN_MS for first, last in zip(deaths, deaths[2:], strict=False))
    return not is_crashing and all(each.facts.get("row") in RECOVERABLE for each in reading.evidence.strikes)


def _met(reading: Reading) -> int:
    """How many strikes met a position or an open order of ours at some moment that they lasted."""
    times = [moment.time for moment in reading.moments]
    met = 0
    for strike in reading.evidence.strikes:
        first = max(bisect.bisect_right(times, strike.begin) - 1, 0)
        last = bisect.bisect_right(times, max(strike.until, strike.begin))
        met += any(moment.ours or moment.open for moment in reading.moments[first:last])
    return met


def _is_halted(reading: Reading) -> bool:
    """Whether the session ended halted by something else than the rules that trip by trading, or by such a one that was
    not reached."""
    standing = _halts(reading).standing
    rule = standing.get("breaker", (0, TRADING_RULES[0]))[1]
    is_false = any(tripped == rule for _, tripped in entries.false_trips(reading)) and "breaker" in standing
    return is_false or rule not in TRADING_RULES or any(why in standing for why in ("hand", "key", "foreign"))


def entry_times(evidence: Evidence) -> list[int]:
    """Return when the venue took entries. Those of a session without faults are another's `clean_entries`."""
    placed = reading_of(evidence).placed_by_id.values()
    return sorted(each[0].time for each in placed if each[0].is_entry)


MOST_HALTED = Decimal("0.01")
LEAST_SENT = Decimal("0.95")
LEAST_ENTERED = Decimal("0.75")
"""Of all entries of the sessions without faults, inside of faults too."""
LEAST_ORDERS, MOST_IDLE = 5, Decimal("0.2")
"""Sessions with fewer orders try little, and may be so many."""
RATED = 20
"""Of fewer sessions nothing is said of how many entries are due."""


def campaign_violations(measures: list[Json]) -> list[Violation]:
    """Judge the rates of O13 over sessions.

    Of those with recoverable faults at most 1 % halt, but for failed entries in a row that faults kept back, by the
    venue's log; and at most 1 % never end. At least 95 % of the entries that are due outside
    of faults are sent, and in all three quarters of those without faults; of many sessions at least as many entries as
    sessions are due. None halts without a fault. At most a fifth of all sessions trade next to nothing.
    """
    found = []
    calm = [each for each in measures if each["halted"] and not each["strikes"]]
    if calm:
        text = f"{len(calm)} sessions without faults, such as seed {calm[0]['seed']}"
        found.append(Violation("O13", "halted without a fault", 0, text))
    recoverable = [each for each in measures if each["recoverable"]]
    faulty = [each for each in recoverable if each["strikes"]]
    for kind, many in (
        ("halted", [each for each in recoverable if each["halted"] and not each["held_back"]]),
        ("never ended", [each for each in recoverable if not each["ended"]]),
    ):
        if len(many) > MOST_HALTED * len(recoverable):
            text = f"{len(many)} of {len(recoverable)} sessions with recoverable faults, such as seed {many[0]['seed']}"
            found.append(Violation("O13", kind, 0, text))
    idle = [each for each in measures if each["orders"] < LEAST_ORDERS]
    if len(idle) > MOST_IDLE * len(measures):
        text = (
            f"{len(idle)} of {len(measures)} sessions sent fewer than {LEAST_ORDERS} orders, such as {idle[0]['seed']}"
        )
        found.append(Violation("O13", "idle", 0, text))
    clean, entered = (sum(each[name] for each in faulty) for name in ("entries_clean", "entries"))
    if entered < LEAST_ENTERED * clean:
        text = f"{entered} entries were sent under faults, {clean} without them"
        found.append(Violation("O13", "entries fewer", 0, text))
    expected = sum(each["entries_expected"] for each in recoverable)
    sent = sum(each["entries_sent"] for each in recoverable)
    if sent < LEAST_SENT * expected:
        found.append(Violation("O13", "entries missing", 0, f"{sent} of {expected} entries were sent"))
    if expected < len(recoverable) >= RATED:
        text = f"{expected} entries were due in {len(recoverable)} sessions"
        found.append(Violation("O13", "entries hardly due", 0, text))
    return found
