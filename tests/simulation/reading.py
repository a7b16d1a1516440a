"""Reads what a session left behind: the venue's log as books, the journals as facts, and bars from the tape.

Written from the formats alone, apart from the product; amounts are Decimals in natural units, or whole ticks and lots.
"""

from __future__ import annotations

import bisect
import re
import zlib
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from decimal import Decimal
from functools import cached_property
from itertools import accumulate

from simulation.evidence import Evidence, JournalRow, Json, Request, Strike

OURS = "vt-"
"""How our client order ids begin."""
FORCED = ("autoclose-", "adl_autoclose", "settlement_autoclose-")
"""How those of orders begin that the venue itself sends: liquidation, ADL, settlement."""
NAME = re.compile(r"^vt-(.+)-(\d+)([a-z])(\d+)$")
"""Epoch, round trip, letter of the purpose, number."""

DAY_MS = 86_400_000
STORED_AGAIN_MS = 6_000
"""So long after a disk is free again an engine may have rows that are not on it."""
SWALLOWED_MS = 2_000
"""So long an engine may wait for the answer to an order that protects, before it sends another."""
QUICK, SLOWED_MS = 4, 3_500
"""And so long once so many for the same purpose of a position were lost before: stops and exits take turns then."""
UNSAYING = (200, 202, 301, 403, 451)
"""Statuses of answers without a body that says anything: an empty one, a page, another address, a firewall's."""
REFUSED_MS = 1_250
"""So long an engine may wait after a refusal of an order that protects, before it sends another."""
UNREAD_MS = 2_000
"""So long an engine may wait after a reading of the account that failed, before it reads it again."""
LOOKED_UP_MS = 1_250
"""So long an engine may wait after a look-up that failed, before it looks the order up again."""
HOLDING = ("delay_request", "late")
"""Faults by which an order is placed late, or never."""
BLOCKED, BAN_MS, PAUSES_MS = (418, 429), 60_000, (5_000, 10_000, 20_000, 40_000, 60_000)
"""Answers that forbid further requests, and for how long where they do not say: a 418, and one 429 after another."""
WAITED_MS = 5_000
"""So long an engine waits for an answer."""
TOO_MANY_ORDERS = -1015
"""Code of a 429 that forbids further orders alone."""
UNTOLD = ("drop", "lag", "reorder", "delay", "hold", "garble", "alter")
"""Faults by which an event is told late, otherwise, or never."""
KEY_TOLD_MS = 10_000
"""How long a user stream may tell nothing whose key has expired, where the venue told that."""
DIALLED_MS = 9_000
"""A user stream that does not tell an accepted order is dialled again within this time."""
COMPARED_MS = 60_000
"""How often the account is compared: by then is missed what went unheard."""
SETTLED_MS = 10_000
"""What is older than this is no longer on its way."""
OF_MARKET = ("jump", "mark")
"""Faults of market data that name no stream."""
MONEY = Decimal("1e-8")
ZERO = Decimal(0)
CHILD_WORKS_MS, CHILD_WORKS_TRADES = 3_000, 10
"""How long an order that a trigger made counts as a working exit: so long, and until so many trades have passed it. The
venue fills it from the trades that come; where none comes, no engine could do better."""
NEVER = 2**62

OPEN = ("NEW", "PARTIALLY_FILLED", "TRIGGERING")
ENDED = ("FILLED", "CANCELED", "EXPIRED", "EXPIRED_IN_MATCH", "REJECTED", "FINISHED")
PLACES = ("/fapi/v1/order", "/fapi/v1/algoOrder")


def whose(client_id: str) -> str:
    """Return `ours`, `forced`, or `hand` for anybody else."""
    if client_id.startswith(OURS):
        return "ours"
    return "forced" if client_id.startswith(FORCED) else "hand"


def money(units: int) -> Decimal:
    return units * MONEY


# --- the venue -------------------------------------------------------------------------------------------------------


@dataclass(slots=True)
class VenueOrder:
    """An order of either kind as the venue's log has it."""

    id: int
    client_id: str
    symbol: str
    side: int
    quantity: Decimal
    type: str
    reduce_only: bool
    close_position: bool
    time_in_force: str
    origin: str
    begun: int
    works_until: int
    is_algo: bool
    filled: Decimal = ZERO
    status: str = "NEW"
    updated: int = 0

    @property
    def is_open(self) -> bool:
        return self.status in OPEN

    @property
    def is_entry(self) -> bool:
        return not (self.reduce_only or self.close_position)

    def covers(self, at: int) -> Decimal:
        """What of a position on the other side this protects: as a stop that waits, or as an exit that works.

        A `closePosition` stop covers nothing by convention, nor does a limit order that rests at a target. What a
        trigger made works until `works_until`; what is TRIGGERING and made nothing covers nothing.
        """
        if self.is_algo:
            waits = self.status == "NEW" and self.reduce_only and not self.close_position
            return self.quantity if waits and not self.type.startswith("TAKE_PROFIT") else ZERO
        takes = self.type == "MARKET" or self.time_in_force in ("IOC", "FOK")
        works = not self.origin or at < self.works_until
        return self.quantity - self.filled if self.is_open and self.reduce_only and takes and works else ZERO


@dataclass(frozen=True, slots=True)
class Fill:
    """A fill of the account, by the venue's log."""

    row: int
    time: int
    symbol: str
    trade_id: int
    order_id: int
    client_id: str
    side: int
    price: Decimal
    quantity: Decimal
    fee: Decimal
    realised: Decimal
    held: Decimal
    """Position after it."""
    ours: Decimal
    """Of that, what is ours to protect."""
    moved_ours: bool

    @property
    def whose(self) -> str:
        return whose(self.client_id)

    @property
    def signed(self) -> Decimal:
        return self.side * self.quantity


@dataclass(slots=True)
class VenueBooks:
    """The venue's account, row by row of its log.

    A position that was opened by hand is not ours to protect; a fill by hand, or forced, that goes against us takes
    first what is foreign on that side.
    """

    trade_times: list[int] = field(default_factory=list)
    """When the tape traded, in order."""
    orders: dict[int, VenueOrder] = field(default_factory=dict)
    algos: dict[int, VenueOrder] = field(default_factory=dict)
    working: dict[int, VenueOrder] = field(default_factory=dict)
    """Those that are open, of both kinds; conditional ones by the negative of their id."""
    held: dict[str, Decimal] = field(default_factory=dict)
    ours: dict[str, Decimal] = field(default_factory=dict)
    last: dict[str, Decimal] = field(default_factory=dict)
    marks: dict[str, Decimal] = field(default_factory=dict)
    """Mark prices, as far as the log has them."""
    wallet: Decimal = ZERO
    fills: list[Fill] = field(default_factory=list)

    def apply(self, number: int, row: Json) -> None:
        match row["kind"]:
            case "fill":
                self._fill(number, row)
            case "order":
                self._order(row)
            case "algo":
                self._algo(row)
            case "trade":
                self.last[row["symbol"]] = Decimal(row["price"])
            case "market":
                self.last[row["symbol"]] = Decimal(row["stand"][1])
                self.marks[row["symbol"]] = Decimal(row["stand"][3])
            case "account" | "start":
                self.wallet = Decimal(row["wallet"])

    def _order(self, row: Json) -> None:
        known = self.orders.get(row["order_id"])
        if known is None:
            known = self.orders[row["order_id"]] = _order_of(row, row["order_id"], self._works_until(row["time"]))
        known.status, known.quantity, known.updated = row["status"], Decimal(row["quantity"]), row["time"]
        self._note(known)

    def _algo(self, row: Json) -> None:
        known = self.algos.get(row["algo_id"])
        if known is None:
            known = self.algos[row["algo_id"]] = _order_of(row, row["algo_id"])
        known.status, known.updated = row["status"], row["time"]
        self._note(known)

    def _works_until(self, begun: int) -> int:
        last = bisect.bisect_right(self.trade_times, begun) + CHILD_WORKS_TRADES - 1
        passed = self.trade_times[last] if last < len(self.trade_times) else NEVER if self.trade_times else 0
        return max(begun + CHILD_WORKS_MS, passed)

    def _note(self, order: VenueOrder) -> None:
        key = -order.id if order.is_algo else order.id
        if order.is_open:
            self.working[key] = order
        else:
            self.working.pop(key, None)

    def _fill(self, number: int, row: Json) -> None:
        symbol, side = row["symbol"], 1 if row["side"] == "BUY" else -1
        quantity, held = Decimal(row["quantity"]), Decimal(row["position"])
        before, ours = self.held.get(symbol, ZERO), self.ours.get(symbol, ZERO)
        after = _ours_after(ours, before, side, quantity, whose(row["client_order_id"]))
        if after * held < 0 or held == 0:
            after = ZERO
        self.held[symbol], self.ours[symbol], self.wallet = held, after, Decimal(row["wallet"])
        order = self.orders.get(row["order_id"])
        if order is not None:
            order.filled += quantity
            order.status = "FILLED" if order.filled >= order.quantity else "PARTIALLY_FILLED"
            self._note(order)
        price, fee, realised = (Decimal(row[name]) for name in ("price", "fee", "realised"))
        ids = row["trade_id"], row["order_id"], row["client_order_id"]
        amounts = price, quantity, fee, realised, held, after
        self.fills.append(Fill(number, row["time"], symbol, *ids, side, *amounts, moved_ours=after != ours))

    def uncovered(self, symbol: str, at: int) -> Decimal:
        """Lots' worth of our position that nothing protects."""
        ours = self.ours.get(symbol, ZERO)
        if not ours:
            return ZERO
        side = -1 if ours > 0 else 1
        cover = (o.covers(at) for o in self.working.values() if o.symbol == symbol and o.side == side and is_ours(o))
        return max(ZERO, abs(ours) - sum(cover, ZERO))


def is_ours(order: VenueOrder) -> bool:
    return order.client_id.startswith(OURS)


def _order_of(row: Json, number: int, works_until: int = 0) -> VenueOrder:
    return VenueOrder(
        id=number,
        client_id=row["client_order_id"],
        symbol=row["symbol"],
        side=1 if row["side"] == "BUY" else -1,
        quantity=Decimal(row["quantity"]),
        type=row["type"],
        reduce_only=row["reduce_only"],
        close_position=row.get("close_position", False),
        time_in_force=row.get("time_in_force", "GTC"),
        origin=row.get("origin", ""),
        begun=row["time"],
        works_until=works_until,
        is_algo="algo_id" in row,
    )


def _ours_after(ours: Decimal, held: Decimal, side: int, quantity: Decimal, owner: str) -> Decimal:
    """What of the position is ours after a fill."""
    if owner == "ours":
        return ours + side * quantity
    if ours * side >= 0:
        return ours
    foreign = max(ZERO, -side * (held - ours))
    return ours + side * min(abs(ours), max(ZERO, quantity - foreign))


@dataclass(frozen=True, slots=True)
class Placed:
    """A request for an order that the venue accepted."""

    row: int
    time: int
    asked: Json
    last: Decimal
    """Last price of the symbol."""
    wallet: Decimal
    mark: Decimal
    """Its mark price; 0 where it is not known."""

    @property
    def client_id(self) -> str:
        return str(self.asked["client_order_id"])

    @property
    def is_entry(self) -> bool:
        return not (self.asked["reduce_only"] or self.asked["close_position"])


@dataclass(frozen=True, slots=True)
class Moment:
    """How a symbol stood at the venue after a row of its log."""

    row: int
    time: int
    symbol: str
    ours: Decimal
    entries: frozenset[str]
    """Open entries of ours, by client id."""
    open: int
    """Open orders of ours of both kinds."""


@dataclass(frozen=True, slots=True)
class Bare:
    """A stretch in which our position was not covered."""

    symbol: str
    begin: int
    end: int
    most: Decimal


# --- bars ------------------------------------------------------------------------------------------------------------

_BAR = "day number open_time close_time first_trade_id last_trade_id open high low close volume taker_buy_volume"
BAR_FIELDS = f"{_BAR} notional trade_count close_reason tainted".split()

Trade = tuple[int, int, int, int, bool]
"""Id, ticks, lots, time, buyer is maker."""


class Folder:
    """Folds trades into bars by the conventions, in whole ticks and lots."""

    def __init__(self, unit: str, threshold: int, daily: bool) -> None:
        self.unit, self.threshold, self.daily = unit, threshold, daily
        self.bars: list[list[int]] = []
        self.day = self.number = self.progress = 0
        self.last_id = -1
        self._bar: list[int] | None = None
        self._taint = False

    def begin_at(self, day: int, number: int, progress: int, first_id: int) -> None:
        """Go on from where a day's bars stand; the bar that is open then is cut, and tainted."""
        self.day, self.number, self.progress = day, number, progress
        self.last_id, self._bar, self._taint = first_id - 1, None, True

    def take(self, trade: Trade) -> None:
        number, price, left, time, maker = trade
        if number <= self.last_id:
            return
        jumped, self.last_id = -1 < self.last_id != number - 1, number
        if jumped and self._bar is not None:
            self._bar[15] = True
        if self.daily and time // DAY_MS > self.day:
            if self._bar is not None:
                self._close(2)
            self.day, self.number, self.progress, self._taint = time // DAY_MS, 0, 0, jumped
        elif jumped and self._bar is None:
            self._taint = True
        counted = 1
        while left:
            left -= self._add(number, price, left, time, maker, counted)
            counted = 0

    def _add(self, number: int, price: int, left: int, time: int, maker: bool, counted: int) -> int:
        """Let the open bar take what it takes of a trade; return the lots."""
        bar = self._bar
        if bar is None:
            head = [self.day, self.number, time, time, number, number, price, price, price, price]
            bar = self._bar = [*head, 0, 0, 0, 0, 0, self._taint]
            self._taint = False
        taken, missing = left, self.threshold - self.progress
        if self.unit == "base":
            taken = min(left, missing)
        elif self.unit == "quote":
            taken = min(left, max(1, -(-missing // price)))
        bar[3], bar[5], bar[9] = time, number, price
        if price > bar[7]:
            bar[7] = price
        elif price < bar[8]:
            bar[8] = price
        bar[10] += taken
        bar[11] += 0 if maker else taken
        bar[12] += taken * price
        bar[13] += counted
        self.progress += {"base": taken, "quote": taken * price}.get(self.unit, counted)
        if self.progress >= self.threshold:
            self._close(1)
            self.progress = self.progress - self.threshold if self.unit == "quote" else 0
        return taken

    def _close(self, reason: int) -> None:
        assert self._bar is not None
        self._bar[14] = reason
        self.bars.append(self._bar)
        self._bar, self.number = None, self.number + 1


def trades_of(body: bytes) -> list[Trade]:
    """Read the trades of a row: columns of differences, zigzag, in bytes of 7 bits, then bits; deflated after a head.

    The columns of mark prices follow those of the trades, the bits of their flags those of the trades.
    """
    (_, length, count, marks), start = _numbers(body, 0, 4)
    packed, at = zlib.decompress(body[start + length :], -15), 0
    columns = []
    for _ in range(4):
        zigzags, at = _numbers(packed, at, count)
        columns.append(list(accumulate((zigzag >> 1) ^ -(zigzag & 1) for zigzag in zigzags)))
    bits = packed[-((count + marks + 7) // 8) or len(packed) :]
    makers = [bool(bits[n >> 3] >> (7 - (n & 7)) & 1) for n in range(count)]
    return list(zip(*columns, makers, strict=True))


def _numbers(data: bytes, at: int, count: int) -> tuple[list[int], int]:
    numbers = []
    for _ in range(count):
        number = shift = 0
        while data[at] & 0x80:
            number, shift, at = number | (data[at] & 0x7F) << shift, shift + 7, at + 1
        numbers.append(number | data[at] << shift)
        at += 1
    return numbers, at


# --- a session -------------------------------------------------------------------------------------------------------


class Reading:
    """Evidence, read once."""

    def __init__(self, evidence: Evidence) -> None:
        self.evidence = evidence

    # the venue

    @cached_property
    def start(self) -> Json:
        return next((row for row in self.evidence.truth if row["kind"] == "start"), {})

    @cached_property
    def units(self) -> dict[str, tuple[Decimal, Decimal]]:
        """Tick and step by symbol."""
        known = self.start.get("instruments") or [{"symbol": self.symbol, **self.evidence.instrument}]
        return {each["symbol"]: (Decimal(each["tick_size"]), Decimal(each["step_size"])) for each in known}

    @property
    def symbol(self) -> str:
        return str(self.evidence.settings.get("symbol", ""))

    @cached_property
    def _played(self) -> tuple[VenueBooks, list[Placed], list[Moment], list[Bare]]:
        books, placed, moments = VenueBooks([trade[3] for trade in self.evidence.tape]), [], []
        bare = _BareWatch(books)
        for number, row in enumerate(self.evidence.truth):
            kind = row["kind"]
            if kind == "accepted" and row["action"] in ("place_order", "place_algo"):
                asked = row["asked"]
                last = books.last.get(asked["symbol"], ZERO)
                mark = books.marks.get(asked["symbol"], ZERO)
                placed.append(Placed(number, row["time"], asked, last, books.wallet, mark))
            changes = kind in ("order", "algo", "fill")
            if changes:
                bare.until(row["time"])
            books.apply(number, row)
            if changes:
                moments.append(_moment(number, row, books))
                bare.look(row["time"])
        bare.until(self.evidence.judged)
        return books, placed, moments, bare.all(self.evidence.judged)

    @property
    def books(self) -> VenueBooks:
        """The venue's books at the end."""
        return self._played[0]

    @property
    def fills(self) -> list[Fill]:
        return self.books.fills

    @property
    def placed(self) -> list[Placed]:
        return self._played[1]

    @property
    def moments(self) -> list[Moment]:
        return self._played[2]

    @property
    def bare(self) -> list[Bare]:
        """Stretches in which our position was not covered."""
        return self._played[3]

    @cached_property
    def left(self) -> list[tuple[str, int, int]]:
        """Orders of ours but entries that were open while nothing was held of their symbol: client id, since when, and
        until when. One that has triggered can't be cancelled any more, and is none."""
        found, since = list[tuple[str, int, int]](), dict[str, int]()
        books = VenueBooks()
        for number, row in enumerate(self.evidence.truth):
            books.apply(number, row)
            if row["kind"] not in ("order", "algo", "fill"):
                continue
            idle = {each.client_id for each in books.working.values() if _is_idle(each, books)}
            found += [(name, since.pop(name), row["time"]) for name in [*since] if name not in idle]
            for name in idle:
                since.setdefault(name, row["time"])
        return found + [(name, begin, self.evidence.judged) for name, begin in since.items()]

    @cached_property
    def placed_by_id(self) -> dict[str, list[Placed]]:
        """Accepted orders of ours."""
        found: dict[str, list[Placed]] = {}
        for each in self.placed:
            if each.client_id.startswith(OURS):
                found.setdefault(each.client_id, []).append(each)
        return found

    @cached_property
    def posts(self) -> dict[str, Request]:
        """The first request for each order of ours."""
        found: dict[str, Request] = {}
        for request in self.evidence.requests:
            if request.method == "POST" and request.path in PLACES:
                found.setdefault(request.client_id, request)
        return found

    @cached_property
    def by_hand(self) -> bool:
        """Whether a person traded the account."""
        return any(fill.whose == "hand" for fill in self.fills)

    @cached_property
    def struck_requests(self) -> dict[tuple[int, str], Json]:
        """What the venue noted of requests that a fault struck, by when they arrived, and method and path."""
        return {(row["time"], str(row.get("struck", ""))): row for row in self.evidence.of_kind("fault")}

    def reached(self, client_id: str) -> bool:
        """Whether the venue got a request for this order."""
        post = self.posts.get(client_id)
        return client_id in self.placed_by_id or (post is not None and post.arrived >= 0)

    # lives

    @cached_property
    def known_until(self) -> int:
        """Until when what happened at the venue must be in the journals; what came later may be on its way."""
        lives = self.evidence.lives
        if not lives or lives[-1].how != "ended":
            return self.evidence.judged - 5_000
        flat = all(not fill.held for fill in self.fills[-1:])
        return lives[-1].end - (0 if flat else 200)

    @property
    def deaths(self) -> list[int]:
        """When the plan killed an engine; one that fails by itself has no time of its own to come back in."""
        return [life.end for life in self.evidence.lives if life.how == "killed"]

    def was_lost(self, time: int) -> bool:
        """Whether rows of that moment were lost by a disk that had said it has them; no journal can help that."""
        return any(begin <= time <= end for begin, end in self._lost)

    def may_be_unknown(self, placed: Placed) -> bool:
        """Whether no journal can have an order: its rows were lost, or it protects and was sent on a full disk."""
        return self.was_lost(placed.time) or (
            not placed.is_entry and self.died_unwritten(placed.client_id, placed.time)
        )

    def died_unwritten(self, client_id: str, time: int) -> bool:
        """Whether a disk took nothing when an order was sent, and the engine was killed before it could store it.

        `time` is when the venue had it; the engine may have died while the request was on its way.
        """
        posts = (each for each in self.evidence.requests if each.client_id == client_id)
        sent = next((each.sent for each in posts if each.arrived == time), time)
        strikes = [each for each in self.evidence.strikes if each.kind == "disk_full"]
        full = [(each.begin, each.until + STORED_AGAIN_MS) for each in strikes]
        return any(begin <= sent <= death <= until for begin, until in full for death in self.deaths)

    @cached_property
    def _lost(self) -> list[tuple[int, int]]:
        deaths = [strike.begin for strike in self.evidence.strikes if strike.facts.get("lost")]
        times = sorted(row.time for journal in self.evidence.journals for row in journal)
        kept = [bisect.bisect_right(times, death) for death in deaths]
        return [(times[at - 1] if at else 0, death) for at, death in zip(kept, deaths, strict=True)]

    @cached_property
    def felt(self) -> list[tuple[int, int]]:
        """When faults may have been felt: as planned, and as the venue noted them."""
        felt = [(strike.begin, strike.until) for strike in self.evidence.strikes] + self._missed
        rows = self.evidence.of_kind("fault")
        felt += [(row["time"], row["time"] + int(row.get("for_s", 0) * 1000)) for row in rows]
        return felt + [(time, time) for time in self.deaths]

    @cached_property
    def hampered(self) -> list[tuple[int, int]]:
        """When faults of orders, user data or the process were felt, and not of market data alone."""
        return self.hampered_by(self.evidence.strikes) + self._missed

    def hampered_by(self, strikes: Iterable[Strike]) -> list[tuple[int, int]]:
        """When faults but those of market data were felt: these strikes, what the venue noted, and deaths.

        What waits for something to strike is felt when the venue notes that it struck.
        """
        felt = [(each.begin, each.until) for each in strikes if not (_waits(each) or _is_of_market(each))]
        rows = [row for row in self.evidence.of_kind("fault") if not str(row.get("struck", "")).startswith("market")]
        rows = [row for row in rows if row["do"] not in OF_MARKET]
        felt += [(row["time"], row["time"] + int(row.get("for_s", 0) * 1000)) for row in rows]
        return felt + [(time, time) for time in self.deaths]

    def is_hampered(self, begin: int, end: int) -> bool:
        return any(since <= end and until >= begin for since, until in self.hampered)

    @cached_property
    def _deaf(self) -> list[tuple[int, int]]:
        """From when a user stream tells nothing more until one is opened again, or should be: 10 s after its end was
        told, or 9 s after an order was accepted of which it tells nothing."""
        found = []
        for key in self.keys_gone:
            until = next((time for time in self.user_dials if time >= key.begin), self.evidence.judged)
            if self.is_told(key):
                until = min(until, key.begin + KEY_TOLD_MS)
            found.append((key.begin, min([until, *(end for _, end in self.untold(key))])))
        return found

    @cached_property
    def _missed(self) -> list[tuple[int, int]]:
        """When it is felt that a user stream has lost its key: as it does, and from each thing on that happens to
        orders of ours, or to the account, and goes untold, for the minute until the account is compared."""
        times = [row["time"] for row in self.evidence.of_kind("order", "algo", "fill", "account")]
        missed = [(begin, begin) for begin, _ in self._deaf]
        return missed + [
            (time, min(until, time + COMPARED_MS))
            for begin, until in self._deaf
            for time in times
            if begin <= time <= until
        ]

    def untold(self, key: Strike) -> list[tuple[Request, int]]:
        """Orders that were accepted after a key was gone, before a stream was opened again, while nothing else was
        wrong that keeps one from being opened; each with until when it must be."""
        if key.begin in self._untold:
            return self._untold[key.begin]
        others = self._others(key)
        dial = next((time for time in self.user_dials if time >= key.begin), self.evidence.judged)
        found = []
        for client_id, placed in self.placed_by_id.items():
            post = self.posts.get(client_id)
            if post is None or post.status != 200 or not key.begin <= placed[0].time < dial:
                continue
            begin, end = post.answered - SETTLED_MS, post.answered + DIALLED_MS
            is_alone = not any(since <= end and until >= begin for since, until in others)
            if is_alone and any(life.begin < begin and end < life.end for life in self.evidence.lives):
                found.append((post, end))
        self._untold[key.begin] = found
        return found

    @cached_property
    def _untold(self) -> dict[int, list[tuple[Request, int]]]:
        return {}

    def _others(self, key: Strike) -> list[tuple[int, int]]:
        """When anything else was wrong that may keep a user stream from being opened, or news of it away."""
        strikes = [each for each in self.evidence.strikes if each not in self.keys_gone]
        found = [*self.hampered_by(strikes), *self.evidence.rest_down, *self._blocked]
        gone = {each.begin for each in self.keys_gone}
        spent = [each.begin // 60_000 * 60_000 for each in strikes if each.kind == "spend_weight"]
        return [each for each in found if each[0] != each[1] or each[0] not in gone] + [
            (minute, minute + 60_000) for minute in spent
        ]

    @property
    def keys_gone(self) -> list[Strike]:
        """Strikes by which a user stream tells nothing more."""
        return [each for each in self.evidence.strikes if each.kind in ("expire_listen_key", "new_listen_key")]

    @cached_property
    def user_dials(self) -> list[int]:
        """When user streams were opened."""
        return [time for time, url in self.evidence.dials if "listenKey" in url]

    def is_told(self, key: Strike) -> bool:
        """Whether the venue told that a key has expired, and nothing else was wrong about then that kept it away, or
        kept another from being asked for."""
        if key.kind != "expire_listen_key" or not key.facts.get("with", {}).get("told", True):
            return False
        before = [each.begin for each in self.keys_gone if each.begin < key.begin]
        if any(not any(gone <= time <= key.begin for time in self.user_dials) for gone in before):
            return False  # the stream's key is another one than that which has expired
        others = [*self.hampered_by([each for each in self.evidence.strikes if each is not key]), *self._blocked]
        others.remove((key.begin, key.begin)) if (key.begin, key.begin) in others else None
        return not any(since <= key.begin + KEY_TOLD_MS and until >= key.begin - 1_000 for since, until in others)

    @cached_property
    def unheard(self) -> list[tuple[int, int]]:
        """When the exchange ended stops of ours, and its word of that was lost or held back, or it said none."""
        rows = self.evidence.of_kind("fault")
        told = [row for row in rows if str(row.get("struck", "")).startswith("user ALGO_UPDATE")]
        lost = {row["time"] for row in told if row["do"] in UNTOLD}
        lost |= {row["time"] for row in rows if row["do"] == "forget_stops"}
        return [(time, time) for time in sorted(lost)] + self._told_nothing

    @cached_property
    def _told_nothing(self) -> list[tuple[int, int]]:
        """When user streams told nothing: they had lost their key, or were struck."""
        return self._deaf + [
            (each.begin, each.until)
            for each in self.evidence.strikes
            if each.facts.get("category") == "private" or "private" in str(each.facts.get("on", ""))
        ]

    def is_struck(self, begin: int, end: int) -> bool:
        return any(since <= end and until >= begin for since, until in self.felt)

    def usable(self, begin: int, end: int) -> int:
        """How much of a stretch REST could be used in.

        Not while it was down, nor while what protects was swallowed, held up by a fault, or refused by one whatever it
        was; nor in the minute after an answer that forbids requests and does not say for how long; nor for a moment
        after a fault struck a reading of the account, or the look-up of an entry and the reading before it, while the
        user stream told nothing.
        """
        left, at = 0, begin
        not_usable = self._held, self._refused, self._blocked, self._unread, self._unseen
        for down, up in sorted([*self.evidence.rest_down, *(each for kind in not_usable for each in kind)]):
            left += max(0, min(down, end) - at)
            at = max(at, up)
        return left + max(0, end - at)

    @cached_property
    def _held(self) -> list[tuple[int, int]]:
        """Stretches for which orders that protect keep an engine waiting, because a fault holds them up or swallows
        them: they are placed late or never, and no answer says so before another is due."""
        posts = self._protecting
        late = {(row["time"], row["struck"]) for row in self.evidence.of_kind("fault") if row["do"] in HOLDING}
        held = [post for post in posts if (post.arrived, f"POST {post.path}") in late]
        rows = self.evidence.of_kind("fault")
        swallowed = {(row["time"], str(row.get("struck", ""))) for row in rows if row["do"] == "swallow"}
        lost = [post for post in posts if post.status == 0 or post.status >= 500]
        lost += [p for p in posts if p.status in UNSAYING and (p.arrived, f"POST {p.path}") in swallowed]
        held += [post for post in lost if post.client_id not in self.placed_by_id]
        before, found = Counter[str](), []
        for post in sorted(held, key=lambda post: post.sent):
            kind = post.client_id.rstrip("0123456789")
            found.append((post.sent, post.sent + (SWALLOWED_MS if before[kind] < QUICK else SLOWED_MS)))
            before[kind] += 1
        return found

    @property
    def _protecting(self) -> list[Request]:
        """Requests that place an order of ours which is no entry."""
        posts = [each for each in self.evidence.requests if each.method == "POST" and each.path in PLACES]
        names = [(post, NAME.match(post.client_id)) for post in posts]
        return [post for post, name in names if name and name[3] != "e"]

    @cached_property
    def _blocked(self) -> list[tuple[int, int]]:
        """Stretches in which nothing may be sent: after an answer that forbids it, for as long as that says.

        They outlive the process that was told. What is answered to a request within such a stretch makes it no longer,
        unless it says how long it lasts.
        """
        found, unsaid, until = [], 0, 0
        for each in sorted(self.evidence.requests, key=lambda each: each.answered):
            at = each.answered
            if at >= 0 and forbids(each) and (each.retry_after_s or at >= until):
                until = at + pause_ms(each, unsaid)
                found.append((at, until))
                unsaid += not each.retry_after_s
            elif each.status == 200:
                unsaid = 0
        return found

    @cached_property
    def _unread(self) -> list[tuple[int, int]]:
        """Stretches for which readings of the position that a fault struck keep an engine waiting, which hears of it in
        no other way, since its user stream has lost its key."""
        asked = [each for each in self.evidence.requests if each.path.endswith("positionRisk") and each.status != 200]
        asked = [each for each in asked if (each.arrived, f"GET {each.path}") in self.struck_requests]
        deaf = [(each.sent, each.sent + UNREAD_MS) for each in asked]
        return [(at, until) for at, until in deaf if any(since <= at <= end for since, end in self._deaf)]

    @cached_property
    def _unseen(self) -> list[tuple[int, int]]:
        """Stretches for which look-ups of an entry that a fault struck keep an engine waiting, which hears of its fills
        in no other way: its user stream tells nothing, and a fault struck the last reading of the account too."""
        asked = [each for each in self.evidence.requests if each.method == "GET"]
        readings = sorted((each for each in asked if each.path.endswith("/account")), key=lambda each: each.sent)
        begins, names = [each.sent for each in readings], [(each, NAME.match(each.client_id)) for each in asked]
        found = []
        for each in (each for each, name in names if name and name[3] == "e" and self._is_struck_down(each)):
            last = bisect.bisect_right(begins, each.sent) - 1
            is_unread = last >= 0 and self._is_struck_down(readings[last])
            if is_unread and any(since <= each.sent <= end for since, end in self._told_nothing):
                found.append((each.sent, each.sent + LOOKED_UP_MS))
        return found

    def _is_struck_down(self, request: Request) -> bool:
        """Whether a fault is why a request was not answered."""
        struck = self.struck_requests.get((request.arrived, f"{request.method} {request.path}"), {})
        return request.status != 200 and struck.get("do") in ("refuse", "swallow")

    @cached_property
    def _refused(self) -> list[tuple[int, int]]:
        """Stretches for which refusals that a fault made, of orders that protect, keep an engine waiting."""
        struck = {(row["time"], row["struck"]) for row in self.evidence.of_kind("fault") if row["do"] == "refuse"}
        refused = [each for each in self._protecting if (each.arrived, f"POST {each.path}") in struck]
        return [(post.sent, post.answered + REFUSED_MS) for post in refused if post.answered >= 0]

    # the journals

    @cached_property
    def rows(self) -> list[tuple[int, JournalRow]]:
        """Rows of all journals in their order, with the journal's number; blocks of trades left out."""
        journals = enumerate(self.evidence.journals)
        return [(number, row) for number, journal in journals for row in journal if row.kind != "Trades"]

    def of_kind(self, *kinds: str) -> Iterator[tuple[int, JournalRow]]:
        return (each for each in self.rows if each[1].kind in kinds)

    @cached_property
    def intents(self) -> dict[str, list[tuple[int, JournalRow]]]:
        """Intents by client id."""
        found: dict[str, list[tuple[int, JournalRow]]] = {}
        for number, row in self.of_kind("OrderIntent"):
            found.setdefault(row.body["order"]["client_order_id"], []).append((number, row))
        return found

    @cached_property
    def told(self) -> dict[tuple[str, int], list[Json]]:
        """Fills that the journals tell, by symbol and trade id: from events and from snapshots."""
        found: dict[tuple[str, int], list[Json]] = {}
        for _, row in self.of_kind("OrderUpdate", "Snapshot"):
            for fill in fills_in(row):
                found.setdefault((fill["symbol"], fill["trade_id"]), []).append(fill)
        return found

    @cached_property
    def trips(self) -> list[Json]:
        return [row.body for _, row in self.of_kind("RoundTrip")]

    @cached_property
    def bars(self) -> list[dict[int, Json]]:
        """Closed bars of each journal, by their number in the run."""
        found: list[dict[int, Json]] = [{} for _ in self.evidence.journals]
        for number, row in self.of_kind("Bar"):
            found[number][row.body["index"]] = row.body
        return found

    # the tape

    @cached_property
    def tape(self) -> dict[int, Trade]:
        tick, step = self.units[self.symbol]
        return {
            number: (number, int(Decimal(price) / tick), int(Decimal(quantity) / step), time, maker)
            for number, price, quantity, time, maker in self.evidence.tape
        }

    def folder(self) -> Folder:
        """Return a fold that has seen no trade."""
        settings, (tick, step) = self.evidence.settings, self.units[self.symbol]
        unit = settings.get("unit", "base")
        lot = {"base": step, "quote": tick * step}.get(unit, Decimal(1))
        threshold = Decimal(str(settings.get("threshold", 10))) / lot
        return Folder(unit, int(threshold), settings.get("anchor", "utc_day") == "utc_day")


def reading_of(evidence: Evidence) -> Reading:
    """Read evidence, once."""
    kept = vars(evidence)
    if "_reading" not in kept:
        kept["_reading"] = Reading(evidence)
    found: Reading = kept["_reading"]
    return found


def forbids(answer: Request) -> bool:
    """Whether an answer forbids further requests."""
    return is_heard(answer) and answer.status in BLOCKED and answer.code != TOO_MANY_ORDERS


def is_heard(answer: Request) -> bool:
    """Whether a request was answered before the engine gave up waiting."""
    return 0 <= answer.answered - answer.sent < WAITED_MS


def pause_ms(answer: Request, unsaid: int = 0) -> int:
    """For how long an answer forbids requests, after so many before it that did not say for how long."""
    unsaid_ms = BAN_MS if answer.status == 418 else PAUSES_MS[min(unsaid, len(PAUSES_MS) - 1)]
    return answer.retry_after_s * 1_000 or unsaid_ms


def _waits(strike: Strike) -> bool:
    """Whether a strike is of the venue's script, and waits for what it strikes."""
    return "until_s" in strike.facts


def _is_of_market(strike: Strike) -> bool:
    on = str(strike.facts.get("on", "")), str(strike.facts.get("category", ""))
    return strike.kind in OF_MARKET or any(name.startswith("market") for name in on)


def fills_in(row: JournalRow) -> list[Json]:
    """The fills that a row tells."""
    if row.kind == "OrderUpdate":
        return [row.body] if row.body["trade_id"] else []
    return list(row.body["fills"]) if row.kind == "Snapshot" else []


def _is_idle(order: VenueOrder, books: VenueBooks) -> bool:
    is_left = is_ours(order) and not order.is_entry and order.status != "TRIGGERING"
    return is_left and not books.held.get(order.symbol, ZERO)


def _moment(number: int, row: Json, books: VenueBooks) -> Moment:
    symbol = row["symbol"]
    ours = [order for order in books.working.values() if order.symbol == symbol and is_ours(order)]
    entries = frozenset(order.client_id for order in ours if order.is_entry)
    return Moment(number, row["time"], symbol, books.ours.get(symbol, ZERO), entries, len(ours))


class _BareWatch:
    """Finds the stretches in which a position is not covered, while the books are played."""

    def __init__(self, books: VenueBooks) -> None:
        self._books = books
        self._since: dict[str, tuple[int, Decimal]] = {}
        self._found: list[Bare] = []
        self._at = 0

    def until(self, time: int) -> None:
        """Between two rows cover changes only where a child order has worked for long enough."""
        orders = self._books.working.values()
        expiries = {order.works_until for order in orders if order.origin}
        for expiry in sorted(e for e in expiries if self._at < e <= time):
            self.look(expiry)
        self._at = max(self._at, time)

    def look(self, time: int) -> None:
        self._at = max(self._at, time)
        for symbol in self._books.ours:
            missing = self._books.uncovered(symbol, time)
            since, most = self._since.get(symbol, (time, ZERO))
            if missing:
                self._since[symbol] = since, max(most, missing)
            elif symbol in self._since:
                del self._since[symbol]
                self._add(symbol, since, time, most)

    def all(self, judged: int) -> list[Bare]:
        for symbol, (since, most) in self._since.items():
            self._add(symbol, since, judged, most)
        return sorted(self._found, key=lambda bare: bare.begin)

    def _add(self, symbol: str, begin: int, end: int, most: Decimal) -> None:
        if end > begin:
            self._found.append(Bare(symbol, begin, end, most))
