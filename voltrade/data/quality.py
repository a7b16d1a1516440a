"""What can be wrong with a file of trades: each fault has a name, a rule, a policy, and the rows it was found in.

`inspect` reads a file, names every fault with its rows, and gives the trades that are left: whole ticks, whole lots,
ascending ids, time that never goes back. Of rows that are not in order, the fewest are named without which they are.
A tape is refused for the first fault (see `tape`); an archive is stored under the policy of each fault (see `fetch`);
`data verify` only tells.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from decimal import Decimal
from enum import StrEnum
from itertools import pairwise
from pathlib import Path
from typing import Any, Generic, TypeVar

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute

from voltrade.compiled import compiled
from voltrade.data.trade_files import Columns, Kind, multiples, read_cells, read_columns
from voltrade.errors import ConfigError, DataError
from voltrade.model import DAY_MS, Bools, Instrument, Int64s, Trades

Column = npt.NDArray[Any]

NO_TRADES = ("INSURANCE_FUND", "ADL", "NA")
"""Order types of raw rows that moved no price: the exchange leaves them out of its aggTrades, so they are dropped."""

MICROSECONDS_FROM = 100_000_000_000_000
"""A time from here on is in microseconds: as milliseconds it would lie beyond the year 5000."""

EARLIEST_MS = 1_000_000_000_000
"""Sep 2001: a smaller time is not in milliseconds."""

LARGEST_TICKLOTS = 2**62

ONE_SIDED_FROM = 1_000
"""Trades from which a day with takers on one side only is a fault: with fewer it could be chance."""

_SPANS_SHOWN = 6


class Policy(StrEnum):
    """What becomes of the rows of a fault."""

    REFUSE = "refuse"
    """Nothing of the file is taken."""
    DROP = "drop"
    """The rows are left out; their ids are then missing, which taints the bars around them."""
    FLAG = "flag"
    """The rows are kept, put right where the rule says how, and counted."""


@dataclass(frozen=True, slots=True)
class Fault:
    """One thing that can be wrong."""

    rule: str
    """What should be."""
    policy: Policy
    """What is done unless told otherwise."""
    allowed: tuple[Policy, ...]


_REFUSE, _DROP, _FLAG = Policy.REFUSE, Policy.DROP, Policy.FLAG

FAULTS: dict[str, Fault] = {
    "checksum": Fault("the bytes must be those that the CHECKSUM file states", _REFUSE, (_REFUSE, _FLAG)),
    "unreadable": Fault("the file must be readable as trades", _REFUSE, (_REFUSE,)),
    "missing_side": Fault("every row must say whether the buyer was the maker", _REFUSE, (_REFUSE, _DROP)),
    "bad_value": Fault("numbers must be plain, multiples of tick, step or 1, and in bounds", _REFUSE, (_REFUSE, _DROP)),
    "microseconds": Fault("times must be in milliseconds; microseconds are converted", _FLAG, (_REFUSE, _FLAG)),
    "unsorted": Fault("ids must ascend; flagged rows are put into their place", _FLAG, (_REFUSE, _DROP, _FLAG)),
    "duplicate_id": Fault("an id must not be there twice", _DROP, (_REFUSE, _DROP)),
    "conflicting_id": Fault("rows of one id must agree; dropped are all but the first", _REFUSE, (_REFUSE, _DROP)),
    "not_positive": Fault("price and quantity must be positive", _DROP, (_REFUSE, _DROP)),
    "time_back": Fault("time must not go back from id to id", _REFUSE, (_REFUSE, _DROP)),
    "wrong_day": Fault("times must lie in the day or month that the file's name states", _REFUSE, (_REFUSE, _DROP)),
    "one_sided": Fault("a day must have takers on both sides", _REFUSE, (_REFUSE, _FLAG)),
    "id_gap": Fault("ids must follow each other; `data fill` asks REST for the missing ones", _FLAG, (_REFUSE, _FLAG)),
    "empty": Fault("the file must hold at least one trade", _REFUSE, (_REFUSE, _FLAG)),
}
"""Every fault, in the order they are told in."""

Policies = Mapping[str, Policy]

LENIENT: Policies = {name: fault.policy for name, fault in FAULTS.items()}
"""What goes into the store unless told otherwise."""

STRICT: Policies = {name: Policy.FLAG if name in ("id_gap", "microseconds") else Policy.REFUSE for name in FAULTS}
"""For a tape that is played as it is: only what does no harm is let pass."""


def policies(given: Mapping[str, str]) -> Policies:
    """Return the default policies with some changed, by the names of fault and policy.

    Raises:
        ConfigError: no such fault, or it can't be treated so.
    """
    chosen = dict(LENIENT)
    for name, policy in given.items():
        if name not in FAULTS:
            raise ConfigError(f"policy: the fault must be one of {', '.join(FAULTS)}, was {name!r}")
        allowed = FAULTS[name].allowed
        if policy not in allowed:
            raise ConfigError(f"policy: {name} must be one of {', '.join(allowed)}, was {policy!r}")
        chosen[name] = Policy(policy)
    return chosen


@dataclass(frozen=True, slots=True, eq=False)
class Finding:
    """A fault that was found."""

    fault: str
    policy: Policy
    rows: Int64s
    """Numbers of the rows as an editor shows them, ascending; empty where the whole file is meant."""
    detail: str
    """Rule and value at the first row."""

    def __str__(self) -> str:
        count = f" in {len(self.rows)} row{'s' * (len(self.rows) != 1)} ({_spans(self.rows)})" if len(self.rows) else ""
        return f"{self.fault}{count}: {self.detail} [{self.policy}]"


def _spans(rows: Int64s) -> str:
    """Row numbers as a person writes them: `3, 7-9, 20`; of many, the first."""
    breaks = [0, *(np.flatnonzero(np.diff(rows) > 1) + 1), len(rows)]
    spans = [(rows[start], rows[end - 1]) for start, end in pairwise(breaks[: _SPANS_SHOWN + 1])]
    shown = [str(first) if first == last else f"{first}-{last}" for first, last in spans]
    return ", ".join(shown) + ", …" * (len(breaks) - 1 > _SPANS_SHOWN)


Taken = TypeVar("Taken")


@dataclass(frozen=True, slots=True, eq=False)
class Inspection(Generic[Taken]):
    """What a file holds and what is wrong with it."""

    name: str
    kind: str
    """`aggTrades`, `trades` where they were aggregated here, or what else the rows are."""
    rows_read: int
    findings: tuple[Finding, ...]
    taken: Taken | None
    """The rows in the order of their ids or times; None where the file is refused."""
    dropped: Mapping[str, int] = field(default_factory=dict)
    """Rows that are no trades, by order type."""
    gaps: int = 0
    """Places at which the file's ids jump."""
    missing: int = 0
    """Ids that the jumps skip."""
    edges: tuple[int, int] | None = None
    """First and last id or time of the day or month, of rows that were dropped too; None where that can't be told."""

    @property
    def counts(self) -> dict[str, int]:
        """Rows of each fault; 1 for a fault of the whole file."""
        return {finding.fault: max(len(finding.rows), 1) for finding in self.findings}

    @property
    def refused(self) -> Finding | None:
        """The first fault that the file is refused for."""
        return next((finding for finding in self.findings if finding.policy is Policy.REFUSE), None)


Span = tuple[int, int]
"""First millisecond UTC, and the one after the last."""


def inspect(
    path: Path, instrument: Instrument, policies: Policies = LENIENT, span: Span | None = None
) -> Inspection[Trades]:
    """Read a file of trades of one symbol, name every fault, and take what the policies leave.

    Raw trades are aggregated: neighbours of the same price, side and millisecond become one aggTrade, whose ids count
    on from the first raw id and jump where the raw ids jump.

    Args:
        span: what the file's name says that it covers.
    """
    try:
        return inspect_columns(read_columns(path), instrument, policies, span)
    except DataError as error:
        return unreadable(path.name, "aggTrades", error)


def inspect_columns(
    batches: Iterable[Columns], instrument: Instrument, policies: Policies = LENIENT, span: Span | None = None
) -> Inspection[Trades]:
    """Inspect trades that come as columns, in at least one batch."""
    found = _Findings(policies)
    parts: list[_Rows] = []
    read = 0
    for columns in batches:
        parts.append(_convert(columns, instrument, found))
        read += len(columns.numbers)
    if columns.malformed:
        first = columns.malformed[0]
        numbers = np.array([row.number for row in columns.malformed], np.int64)
        found.add("unreadable", numbers, f"must have {first.expected_columns} columns, has {first.actual_columns}")
    return _examined(columns.name, columns.kind, instrument.symbol, _Rows.join(parts), read, found, span)


def inspect_trades(
    name: str, trades: Trades, policies: Policies = LENIENT, span: Span | None = None
) -> Inspection[Trades]:
    """Inspect trades that are numbers already; rows count from 1."""
    number = np.arange(1, len(trades) + 1, dtype=np.int64)
    side = trades.buyer_is_maker.astype(np.int8)
    rows = _Rows(number, trades.id, trades.price, trades.quantity, trades.time, side, np.zeros_like(side), side > 1)
    return _examined(name, "aggTrades", trades.symbol, rows, len(trades), _Findings(policies), span)


def _examined(
    name: str, kind: Kind, symbol: str, rows: _Rows, read: int, found: _Findings, span: Span | None
) -> Inspection[Trades]:
    rows = _in_order(rows, found)
    missing = _gaps(rows, found)
    is_trade = rows.order_type == 0
    keep = is_trade & ~_broken(rows, is_trade, span, found)
    dropped = {kind: int(np.count_nonzero(rows.order_type == code)) for code, kind in enumerate(_ORDER_TYPES) if code}
    if not keep.any() and not found.refused:
        found.add("empty", np.empty(0, np.int64), "must hold at least one trade, has none")
    return Inspection(
        name,
        kind,
        read,
        found.all(),
        None if found.refused else _trades(symbol, kind, rows, keep, is_trade),
        {kind: count for kind, count in dropped.items() if count},
        gaps=int(np.count_nonzero(missing)),
        missing=int(missing.sum()),
        # Ids of raw trades that were aggregated are of our own counting.
        edges=_edges(rows.id[is_trade & _inside(rows, span)]) if kind == "aggTrades" else None,
    )


def unreadable(name: str, kind: str, error: DataError) -> Inspection[Any]:
    """Return what there is to say of a file that can't be read."""
    detail = str(error).removeprefix(f"{name}: ")
    return Inspection(name, kind, 0, (_of_file("unreadable", LENIENT, detail),), None)


def with_finding(inspection: Inspection[Taken], fault: str, policies: Policies, detail: str) -> Inspection[Taken]:
    """Add a fault of the whole file in front of the others."""
    finding = _of_file(fault, policies, detail)
    taken = None if finding.policy is Policy.REFUSE else inspection.taken
    return replace(inspection, findings=(finding, *inspection.findings), taken=taken)


def _of_file(fault: str, policies: Policies, detail: str) -> Finding:
    return Finding(fault, policies[fault], np.empty(0, np.int64), detail)


class _Findings:
    """Collects faults, by name, while rows are looked at."""

    def __init__(self, policies: Policies) -> None:
        self.policies = policies
        self._rows: dict[str, list[Int64s]] = {}
        self._detail: dict[str, str] = {}

    def add(self, fault: str, rows: Int64s, detail: str) -> None:
        self._rows.setdefault(fault, []).append(rows)
        self._detail.setdefault(fault, detail)

    def where(self, fault: str, wrong: Bools, rows: Int64s, rule: str, values: Any = None) -> Bools:
        """Note a fault where rows are wrong, and return where."""
        if wrong.any():
            at = int(np.argmax(wrong))
            self.add(fault, rows[wrong], rule if values is None else f"{rule}, was {values[at]}")
        return wrong

    @property
    def refused(self) -> bool:
        return any(self.policies[name] is Policy.REFUSE for name in self._rows)

    def all(self) -> tuple[Finding, ...]:
        return tuple(
            Finding(name, self.policies[name], np.unique(np.concatenate(self._rows[name])), self._detail[name])
            for name in FAULTS
            if name in self._rows
        )


# --- marks and funding rates ------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class SeriesLayout:
    """A file of values by time, which are read in 1e-8."""

    kind: str
    columns: tuple[str, ...]
    """Those that the file must have, in its order."""
    time: str
    values: tuple[str, ...]
    step: int
    """Milliseconds from row to row where nothing is missing; 0 where that is not known."""
    positive: bool
    zero: tuple[str, ...] = ()
    """Columns that must hold nothing but 0: others make the rows something else."""


MARK_KLINES = SeriesLayout(
    "marks",
    ("open_time", "open", "high", "low", "close", "volume"),
    "open_time",
    ("open", "high", "low", "close"),
    step=60_000,
    positive=True,
    zero=("volume",),  # a mark price is not traded, and the archive calls klines of traded prices by the same name
)
FUNDING_RATES = SeriesLayout(
    "funding",
    ("calc_time", "funding_interval_hours", "last_funding_rate"),
    "calc_time",
    ("last_funding_rate",),
    step=0,
    positive=False,
)

E8 = Decimal("0.00000001")


def inspect_series(
    path: Path, layout: SeriesLayout, policies: Policies = LENIENT, span: Span | None = None
) -> Inspection[tuple[Int64s, ...]]:
    """Read a file of values by time, name every fault, and take what the policies leave: times, then the values."""
    try:
        cells, numbers = read_cells(path, layout.columns)
    except DataError as error:
        return unreadable(path.name, layout.kind, error)
    return inspect_cells(path.name, cells, numbers, layout, policies, span)


def inspect_cells(
    name: str,
    cells: Mapping[str, pa.Array],
    number: Int64s,
    layout: SeriesLayout,
    policies: Policies = LENIENT,
    span: Span | None = None,
) -> Inspection[tuple[Int64s, ...]]:
    """Inspect values by time that come as columns of texts or whole numbers, in rows of these numbers."""
    found = _Findings(policies)
    columns = []
    bad = np.zeros(len(number), dtype=np.bool_)
    for column, unit in ((layout.time, Decimal(1)), *((value, E8) for value in layout.values)):
        counts, wrong = multiples(cells[column], unit)
        bad |= found.where("bad_value", wrong, number, f"{column} must be a multiple of {unit:f}", cells[column])
        columns.append(counts)
    for column in layout.zero:
        counts, _ = multiples(cells[column], E8)
        bad |= found.where("bad_value", counts != 0, number, f"{column} must be 0", cells[column])
    in_microseconds = columns[0] >= MICROSECONDS_FROM
    found.where("microseconds", in_microseconds & ~bad, number, "time must be in milliseconds", columns[0])
    columns[0] = np.where(in_microseconds, columns[0] // 1000, columns[0])
    rows = (number[~bad], *(column[~bad] for column in columns))
    return _examined_series(name, layout, rows, len(number), found, span)


def inspect_values(
    name: str, columns: Sequence[Int64s], layout: SeriesLayout, policies: Policies = LENIENT, span: Span | None = None
) -> Inspection[tuple[Int64s, ...]]:
    """Inspect times and values that are numbers already; rows count from 1."""
    number = np.arange(1, len(columns[0]) + 1, dtype=np.int64)
    return _examined_series(name, layout, (number, *columns), len(number), _Findings(policies), span)


def _examined_series(
    name: str, layout: SeriesLayout, rows: tuple[Int64s, ...], read: int, found: _Findings, span: Span | None
) -> Inspection[tuple[Int64s, ...]]:
    """Examine row numbers, times and values."""
    order = _order("time", rows[1], rows[2:], rows[0], found)
    number, *columns = rows if order is None else (column[order] for column in rows)
    times, values = columns[0], columns[1:]
    missing = jumps(times // layout.step) if layout.step else np.zeros(len(number), np.int64)
    found.where("id_gap", missing > 0, number, f"{missing.sum()} rows are missing; the row after the first gap", times)
    keep = np.ones(len(number), np.bool_)
    if layout.positive:
        is_positive = np.all([column > 0 for column in values], axis=0)
        keep &= ~found.where("not_positive", ~is_positive, number, "prices must be positive")
    outside = _outside(times, span, number, found)
    keep &= ~outside
    if not keep.any() and not found.refused:
        found.add("empty", np.empty(0, np.int64), "must hold at least one row, has none")
    return Inspection(
        name,
        layout.kind,
        read,
        found.all(),
        None if found.refused else tuple(column[keep] for column in columns),
        gaps=int(np.count_nonzero(missing)),
        missing=int(missing.sum()),
        edges=_edges(times[~outside]),
    )


# --- texts become numbers ---------------------------------------------------------------------------------------------

_MAKER, _TAKER, _NO_SIDE = 1, 0, -1
_ORDER_TYPES = ("MARKET", *NO_TRADES)


@dataclass(frozen=True, slots=True, eq=False)
class _Rows:
    """Rows of a file as numbers."""

    number: Int64s
    """As an editor shows it."""
    id: Int64s
    price: Int64s
    quantity: Int64s
    time: Int64s
    side: npt.NDArray[np.int8]
    order_type: npt.NDArray[np.int8]
    """Index into `_ORDER_TYPES`."""
    bad: Bools
    """Where something else than the id is no number that can be."""

    def __getitem__(self, rows: Any) -> _Rows:
        return _Rows(*(getattr(self, name)[rows] for name in self.__slots__))

    @staticmethod
    def join(parts: list[_Rows]) -> _Rows:
        return _Rows(*(np.concatenate([getattr(part, name) for part in parts]) for name in _Rows.__slots__))


def _convert(columns: Columns, instrument: Instrument, found: _Findings) -> _Rows:
    """Turn columns into whole ticks, lots and milliseconds. Rows without an id are left out."""
    number, count = columns.numbers, len(columns.numbers)
    bad = np.zeros(count, dtype=np.bool_)

    def refuse(wrong: Bools, rule: str, values: Any) -> None:
        bad[:] |= found.where("bad_value", wrong, number, rule, values)

    def whole(name: str, unit: Decimal) -> Int64s:
        column = columns.columns[name]
        counts, wrong = multiples(column, unit)
        rule = f"{name} must be a whole number" if unit == 1 else f"{name} must be a multiple of {unit}"
        refuse(wrong, rule, column)
        return counts

    ids = whole("id", Decimal(1))
    has_id = ~bad
    price = whole("price", instrument.tick_size)
    quantity = whole("quantity", instrument.step_size)
    time = whole("time", Decimal(1))
    in_microseconds = time >= MICROSECONDS_FROM
    milliseconds = np.where(in_microseconds, time // 1000, time)
    outside = (milliseconds < EARLIEST_MS) | (milliseconds >= MICROSECONDS_FROM)
    refuse(outside & ~bad, "time must be in milliseconds or microseconds since 1970", columns.columns["time"])
    refuse(price > instrument.max_price, f"price must be at most {instrument.max_price} ticks", price)
    most = LARGEST_TICKLOTS // instrument.max_price
    refuse(quantity > most, f"quantity must be at most {most} lots", quantity)
    side, wrong = _sides(columns)
    refuse(wrong, "is_buyer_maker must be true or false", columns.columns.get("is_buyer_maker"))
    order_type, wrong = _order_types(columns, price, quantity)
    refuse(wrong, f"order_type must be MARKET, {', '.join(NO_TRADES)}", columns.columns.get("order_type"))

    found.where("microseconds", in_microseconds & ~bad, number, "time must be in milliseconds", time)
    if count and "is_buyer_maker" not in columns.columns:
        has = ", ".join(columns.header)
        found.add("missing_side", number, f"must have the columns is_buyer_maker, has {has}")
    else:
        found.where(
            "missing_side", (side == _NO_SIDE) & ~bad, number, "is_buyer_maker must be true or false, was empty"
        )
    rows = _Rows(number, ids, price, quantity, milliseconds, side, order_type, bad)
    return rows if has_id.all() else rows[has_id]


def _sides(columns: Columns) -> tuple[npt.NDArray[np.int8], Bools]:
    """Who was the maker in each row, and which rows say something else."""
    column = columns.columns.get("is_buyer_maker")
    if column is None:
        count = len(columns.columns["id"])
        return np.full(count, _NO_SIDE, np.int8), np.zeros(count, np.bool_)
    texts = pa.compute.utf8_lower(column.cast(pa.string()))
    maker, taker = _is_in(texts, ("true", "1")), _is_in(texts, ("false", "0"))
    sides = np.where(maker, _MAKER, np.where(taker, _TAKER, _NO_SIDE)).astype(np.int8)
    return sides, ~(maker | taker | _is_in(texts.fill_null(""), ("",)))


def _order_types(columns: Columns, price: Int64s, quantity: Int64s) -> tuple[npt.NDArray[np.int8], Bools]:
    """Order type of each row. Raw archive files have no such column: there a row of zeros is an `NA` record."""
    column = columns.columns.get("order_type")
    if columns.kind == "aggTrades" or column is None:
        is_na = (price == 0) & (quantity == 0) if columns.kind == "trades" else np.zeros(len(price), np.bool_)
        return np.where(is_na, _ORDER_TYPES.index("NA"), 0).astype(np.int8), np.zeros(len(price), np.bool_)
    codes = pa.compute.index_in(column.cast(pa.string()), pa.array(_ORDER_TYPES)).fill_null(-1)
    types = codes.to_numpy(zero_copy_only=False).astype(np.int8)
    return types, types < 0


def _is_in(texts: pa.Array, words: tuple[str, ...]) -> Bools:
    found: Bools = pa.compute.is_in(texts, pa.array(words)).to_numpy(zero_copy_only=False)
    return found


# --- rows in order, and what is wrong between them --------------------------------------------------------------------


def _in_order(rows: _Rows, found: _Findings) -> _Rows:
    """Put rows in the order of their ids, each id once."""
    order = _order("id", rows.id, (rows.price, rows.quantity, rows.time, rows.side), rows.number, found)
    return rows if order is None else rows[order]


def _order(name: str, keys: Int64s, values: Iterable[Column], number: Int64s, found: _Findings) -> Int64s | None:
    """Return the rows in the order of their keys, each key once; None where they are so already."""
    if np.all(keys[1:] > keys[:-1]):
        return None
    order = np.argsort(keys, kind="stable")
    again = np.zeros(len(keys), np.bool_)
    again[order[1:]] = keys[order[1:]] == keys[order[:-1]]
    # In the order of keys a repeated row stands behind the first of its key.
    first = order[np.maximum.accumulate(np.where(again[order], 0, np.arange(len(order))))]
    differs = np.zeros(len(keys), np.bool_)
    for column in values:
        differs[order] |= column[order] != column[first]
    conflicting = again & differs
    unsorted = np.zeros(len(keys), np.bool_)
    unsorted[~again] = _out_of_place(keys[~again])
    found.where("duplicate_id", again & ~conflicting, number, f"{name} must not be there twice", keys)
    found.where("conflicting_id", conflicting, number, f"rows of one {name} must agree, the {name}", keys)
    found.where("unsorted", unsorted, number, f"{name} must ascend from row to row", keys)
    leave = again | unsorted if found.policies["unsorted"] is Policy.DROP else again
    return np.asarray(order[~leave[order]])


def _out_of_place(values: Int64s) -> Bools:
    """Which values disturb an ascending order: the fewest without which none is below one before it."""
    if np.all(values[1:] >= values[:-1]):
        return np.zeros(len(values), np.bool_)
    return ~_longest_ascent(values)


@compiled
def _longest_ascent(values: Int64s) -> Bools:
    """Choose as many values as can be of which none is below one before it.

    Going backwards, `heads` holds the first row of the best chain of each length: the one whose value is highest, since
    it lets the most rows stand before it (Fredman 1975). A value that fits before the longest chain is found at once,
    so that rows which are mostly in order take linear time.
    """
    heads = np.empty(len(values), np.int64)
    following = np.empty(len(values), np.int64)
    longest = 0
    for row in range(len(values) - 1, -1, -1):
        length, above = longest, longest
        if longest > 0 and values[heads[longest - 1]] < values[row]:
            length = 0
            while length < above:  # how long a chain may stand behind this value
                middle = (length + above) // 2
                if values[heads[middle]] >= values[row]:
                    length = middle + 1
                else:
                    above = middle
        following[row] = heads[length - 1] if length > 0 else -1
        heads[length] = row
        longest = max(longest, length + 1)
    chosen = np.zeros(len(values), np.bool_)
    row = heads[longest - 1] if longest > 0 else -1
    while row >= 0:
        chosen[row] = True
        row = following[row]
    return chosen


def _gaps(rows: _Rows, found: _Findings) -> Int64s:
    """How many ids are missing before each row."""
    missing = jumps(rows.id)
    if missing.any():
        at = int(np.argmax(missing > 0))
        ids = f"{rows.id[at] - missing[at]} to {rows.id[at] - 1}"
        detail = f"ids must follow each other, {missing.sum()} are missing, the first from {ids}"
        found.add("id_gap", rows.number[missing > 0], detail)
    return missing


def jumps(ids: Int64s) -> Int64s:
    """How many ids are missing before each of some ascending ids."""
    return np.diff(ids, prepend=ids[:1] - 1) - 1


def _broken(rows: _Rows, is_trade: Bools, span: Span | None, found: _Findings) -> Bools:
    """Rows that can't be kept, of rows in the order of their ids."""
    positive = (rows.price > 0) & (rows.quantity > 0)
    not_positive = is_trade & ~rows.bad & ~positive
    broken = rows.bad | (is_trade & (rows.side == _NO_SIDE))
    broken |= found.where("not_positive", not_positive, rows.number, "price and quantity must be positive")
    broken |= _outside(rows.time, span, rows.number, found, broken)
    # A row that can't be kept anyway must not make those after it look late.
    back = np.zeros(len(broken), np.bool_)
    back[~broken] = _out_of_place(rows.time[~broken])
    broken |= found.where("time_back", back, rows.number, "time must be in the order of the ids", rows.time)
    _one_sided(rows[is_trade & ~broken], found)
    return np.asarray(broken)


def _outside(
    times: Int64s, span: Span | None, number: Int64s, found: _Findings, besides: Bools | np.bool_ = np.False_
) -> Bools:
    """Note which times lie outside of the span, besides those of some rows; return which."""
    if span is None:
        return np.zeros(len(times), np.bool_)
    rule = f"time must lie within {_utc(span[0])} and {_utc(span[1])}"
    return found.where("wrong_day", ((times < span[0]) | (times >= span[1])) & ~besides, number, rule, times)


def _inside(rows: _Rows, span: Span | None) -> Bools:
    """Rows of the span, and those whose time isn't known."""
    if span is None:
        return np.ones(len(rows.id), np.bool_)
    return np.asarray(rows.bad | ((rows.time >= span[0]) & (rows.time < span[1])))


def _edges(keys: Int64s) -> tuple[int, int] | None:
    """First and last of some ascending keys."""
    return (int(keys[0]), int(keys[-1])) if len(keys) else None


def _one_sided(rows: _Rows, found: _Findings) -> None:
    days = rows.time // DAY_MS
    begins = np.flatnonzero(np.diff(days, prepend=-1))
    for first, last in pairwise((*begins, len(days))):
        sides = rows.side[first:last]
        if len(sides) >= ONE_SIDED_FROM and sides.min() == sides.max():
            side = "true" if sides[0] == _MAKER else "false"
            detail = f"a day must have takers on both sides, is_buyer_maker is {side} all {_utc(rows.time[first])[:10]}"
            found.add("one_sided", rows.number[first:last], detail)


def _utc(milliseconds: int) -> str:
    return f"{datetime.fromtimestamp(milliseconds / 1000, UTC):%Y-%m-%d %H:%M}"


def _trades(symbol: str, kind: Kind, rows: _Rows, keep: Bools, is_trade: Bools) -> Trades:
    kept = rows if keep.all() else rows[keep]
    trades = Trades(symbol, kept.id, kept.price, kept.quantity, kept.time, kept.side == _MAKER)
    if kind == "aggTrades" or not len(trades):
        return trades
    there = keep | ~is_trade  # a row that is no trade is not missing
    missing_before = np.cumsum(jumps(rows.id[there]))[keep[there]]
    return aggregate(trades, first_id=int(rows.id[0]), missing_before=missing_before)


def aggregate(raw: Trades, first_id: int, missing_before: Int64s) -> Trades:
    """Join neighbouring raw trades of the same price, side and millisecond into aggTrades.

    `missing_before` is, for each raw trade, how many ids are missing before it. AggTrade ids count on from `first_id`
    and skip as many ids as the raw trades do, so that what is missing stays visible; nothing is joined across a gap.
    """
    begins = np.append(True, np.zeros(len(raw) - 1, dtype=np.bool_))
    for column in (raw.price, raw.time, raw.buyer_is_maker, missing_before):
        begins[1:] |= column[1:] != column[:-1]
    first = np.flatnonzero(begins)
    return Trades(
        raw.symbol,
        id=first_id + np.arange(len(first), dtype=np.int64) + missing_before[first],
        price=raw.price[first],
        quantity=np.add.reduceat(raw.quantity, first),
        time=raw.time[first],
        buyer_is_maker=raw.buyer_is_maker[first],
    )
