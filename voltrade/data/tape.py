"""Tapes of trades: days of the store, a file of trades, or a synthetic market.

Backtest and `sim` play a tape. It consists of aggTrades with whole ticks, whole lots and ascending ids, whatever the
file had; a file with faults that would change results is refused with the row. A tape from the store also has mark
prices and funding rates where they are stored; what is missing of them is counted (`coverage`).
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from voltrade.compiled import source_key
from voltrade.config import SessionSettings
from voltrade.data.archive_files import checksum_path
from voltrade.data.day_edges import open_days, open_fundings
from voltrade.data.faults import TAPE_POLICIES, Inspection
from voltrade.data.file_checks import inspect_file
from voltrade.data.kinds import TRADES, day_of
from voltrade.data.row_checks import ids_missing_before
from voltrade.data.store import Store
from voltrade.data.synthetic import synthetic_market
from voltrade.errors import DataError
from voltrade.model import Funding, Instrument, Int64s, Marks, Trades

SAMPLE = 1 << 16
"""About how many rows of a column `Tape.fingerprint` takes."""

# --- what a tape is ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class TapeReport:
    """What was found while a tape was read. Times are milliseconds UTC."""

    rows_read: int
    trades: int
    """Number of aggTrades."""
    first_time: int
    last_time: int
    dropped: Mapping[str, int] = field(default_factory=dict)
    """Number of dropped rows by order type."""
    id_gaps: int = 0
    """How many gaps the ids have."""
    ids_missing: int = 0
    """How many ids are missing in the gaps."""

    def __str__(self) -> str:
        parts = [f"{self.rows_read} rows, {self.trades} aggTrades"]
        parts += [f"{count} {kind} rows dropped" for kind, count in self.dropped.items()]
        if self.id_gaps:
            parts.append(f"{self.ids_missing} ids missing in {self.id_gaps} gaps")
        return ", ".join(parts)


@dataclass(frozen=True, slots=True, eq=False)
class Tape:
    """AggTrades of one symbol, with mark prices and funding where they are known."""

    trades: Trades
    report: TapeReport
    source: str
    """Name of the file, or seed and length of a synthetic tape; shown with every result."""
    synthetic: bool = False
    marks: Marks | None = None
    """Mark prices of the exchange, one a minute; None where none is known. Minutes may be missing: see `coverage`."""
    funding: Funding | None = None
    """Funding rates of the exchange; None where none is known. Rows may be missing."""
    open_days: tuple[str, ...] = ()
    """Days of the store of which nothing says that they are whole, or have all funding rates."""
    _fingerprints: dict[tuple[int, int], str] = field(default_factory=dict, init=False, repr=False)
    """Those that were computed, by their times."""

    def sha256(self) -> str:
        """Return a hash of its trades, mark prices and funding rates."""
        digest = hashlib.sha256(self.trades.symbol.encode())
        for _, column in self._columns:
            digest.update(np.ascontiguousarray(column).view(np.uint8).data)
        return digest.hexdigest()

    def fingerprint(self, began: int, ended: int) -> str:
        """Return a hash of its rows from one time to another, ms UTC, both included, 16 hex digits.

        It is of the sums of whole columns and of about `SAMPLE` rows in even distances, computed once: cheap beside a
        backtest.
        """
        if (began, ended) not in self._fingerprints:
            self._fingerprints[began, ended] = self._fingerprint(began, ended)
        return self._fingerprints[began, ended]

    def _fingerprint(self, began: int, ended: int) -> str:
        digest = hashlib.sha256(self.trades.symbol.encode())
        for times, column in self._columns:
            first, last = np.searchsorted(times, [began, ended + 1])
            part = column[first:last]
            digest.update(f"{len(part)} {part.sum()} ".encode())
            digest.update(np.ascontiguousarray(part[:: max(1, len(part) // SAMPLE)]).tobytes())
        return digest.hexdigest()[:16]

    @property
    def _columns(self) -> list[tuple[Int64s, npt.NDArray[Any]]]:
        """All columns, each with the times of its rows."""
        columns: list[tuple[Int64s, npt.NDArray[Any]]] = [(self.trades.time, each) for each in self.trades.columns]
        if self.marks:
            columns += [(self.marks.time, each) for each in (self.marks.time, self.marks.price_e8)]
        if self.funding:
            columns += [(self.funding.time, each) for each in (self.funding.time, self.funding.rate_e8)]
            special = self.funding.special_e8
            columns += [(self.funding.time, special)] if special is not None and special.any() else []
        return columns


def load_tape(session: SessionSettings, instrument: Instrument) -> Tape:
    """Return the tape of a session's settings: days of the store, a file of trades, or a synthetic market.

    Raises:
        DataError: the file can't be read as trades of this instrument, or the store lacks a day.
    """
    if session.tape == "synthetic":
        return synthetic_trades(instrument, session.seed, session.hours)
    if session.tape.startswith(STORED):
        return stored_trades(session.tape, instrument)
    return load_trades(session.tape, instrument)


# --- a tape from the store --------------------------------------------------------------------------------------------

STORED = "store:"


def stored_trades(name: str, instrument: Instrument, store: Store | None = None) -> Tape:
    """Load days of the store: `store:BTCUSDT:2026-01-01`, or `store:BTCUSDT:2026-01-01:2026-01-07` with the last.

    Raises:
        DataError: the name has another form or symbol, or the store lacks a day.
    """
    store = store or Store()
    first, last = _days_of(name, instrument)
    trades, funding = store.trades(instrument, first, last), store.funding(instrument.symbol, first, last)
    missing = ids_missing_before(trades.id)
    gaps = {"id_gaps": int(np.count_nonzero(missing)), "ids_missing": int(missing.sum())}
    report = _report(trades, len(trades), **gaps)
    until = "" if first == last else f" to {last}"
    symbol = instrument.symbol
    return Tape(
        trades,
        report,
        f"store, {symbol} {first}{until}",
        marks=store.marks(symbol, first, last),
        funding=funding,
        open_days=(
            *open_days(store, symbol, first, last),
            *_lost_at_edges(store, trades, first, last),
            *(f"{day} ({n} funding rates)" for day, n in open_fundings(store, symbol, funding, first, last)),
        ),
    )


def _lost_at_edges(store: Store, trades: Trades, first: date, last: date) -> Iterator[str]:
    """Yield days whose first or last rows were dropped for a fault, so that no gap between two trades shows it."""
    begin, end = (store.day(TRADES, trades.symbol, day) for day in (first, last))
    if begin and (lost := int(trades.id[0]) - begin.first) > 0:
        yield f"{first} ({lost:,} ids lack at its begin)"
    # Ids of joined raw trades were moved behind those of the day before, so the stored ones are looked up.
    if end and end.last != trades.id[-1] and (lost := end.last - int(store.rows(TRADES, end.symbol, last)[0][-1])) > 0:
        yield f"{last} ({lost:,} ids lack at its end)"


def _days_of(name: str, instrument: Instrument) -> tuple[date, date]:
    try:
        symbol, first, *last = name.removeprefix(STORED).split(":")
        days = [date.fromisoformat(day) for day in (first, *last)]
        begin, end = days if len(days) > 1 else days * 2
    except ValueError:
        raise DataError(f"tape: must be {STORED}SYMBOL:DAY or {STORED}SYMBOL:DAY:DAY, was {name!r}") from None
    if symbol != instrument.symbol:
        raise DataError(f"tape: must be of {instrument.symbol}, was {name!r}")
    if begin > end:
        raise DataError(f"tape: the first day must not be after the last, was {name!r}")
    return begin, end


# --- a tape from a seed -----------------------------------------------------------------------------------------------

SYNTHETIC_START_MS = int(datetime(2026, 1, 5, 20, tzinfo=UTC).timestamp()) * 1000
"""Four hours before a UTC midnight, so that bars of a tape of default length are closed by the day's end."""


def synthetic_trades(instrument: Instrument, seed: int, hours: float, start_ms: int = SYNTHETIC_START_MS) -> Tape:
    """Return a tape of a synthetic market, marked as synthetic."""
    trades = synthetic_market(instrument, seed, hours, start_ms)
    report = _report(trades, rows_read=len(trades))
    return Tape(trades, report, source=f"synthetic, seed {seed}, {hours:g} h", synthetic=True)


# --- reading a file of trades -----------------------------------------------------------------------------------------


CACHED_FROM = 4_000_000
"""Trades of a file with at least so many bytes are kept beside the store, and are read from there the next time."""


def load_trades(path: Path | str, instrument: Instrument) -> Tape:
    """Read a file of trades of one symbol, and refuse it for faults that would change results.

    Reads Binance's archive files (aggTrades or trades, with or without header, times in milliseconds or microseconds)
    and recordings with a header, as CSV, gzip, zip or Parquet. Raw trades are aggregated, see `trade_checks.inspect`.
    Trades of a large file are kept beside the store by the hash of its bytes, so that it is parsed only once.

    Raises:
        DataError: the file can't be read as trades of this instrument; the message has row, rule and value.
    """
    path = Path(path)
    if not path.is_file() or path.stat().st_size < CACHED_FROM:
        return _read_trades(path, instrument)
    store = Store()
    key = _cache_key(path, instrument, store)
    if found := store.cache.trades(key):
        trades, report = found
        return _file_tape(path, trades, TapeReport(**json.loads(report)))
    read = _read_trades(path, instrument)
    store.cache.add_trades(key, read.trades, json.dumps(asdict(read.report)))
    return read


def _cache_key(path: Path, instrument: Instrument, store: Store) -> str:
    """Return a hash of all that the trades depend on: the file's bytes and name, the symbol's units, and our code."""
    units = f"{instrument.tick_size} {instrument.step_size} {instrument.max_price}"
    beside = checksum_path(path)
    checksum = beside.read_text(errors="replace") if beside.exists() else ""
    said = f"{path.name} {instrument.symbol} {units} {source_key(Path(__file__))} {_content(path, store)} {checksum}"
    return hashlib.sha256(said.encode()).hexdigest()


def _content(path: Path, store: Store) -> str:
    """Return the SHA-256 of a file's bytes; it is remembered while the file doesn't change."""
    status = path.stat()
    seen = f"{path.resolve()} {status.st_ino} {status.st_size} {status.st_mtime_ns} {status.st_ctime_ns}"
    known = hashlib.sha256(seen.encode()).hexdigest()
    if content := store.cache.text(known):
        return content
    with path.open("rb") as file:
        content = hashlib.file_digest(file, "sha256").hexdigest()
    # A file that is still being written may change again without a change of its time stamps.
    if time.time() - status.st_ctime > _SETTLED_S:
        store.cache.add_text(known, content)
    return content


_SETTLED_S = 2.0


def _read_trades(path: Path, instrument: Instrument) -> Tape:
    found: Inspection[Trades] = inspect_file(path, instrument, TAPE_POLICIES, archived=checksum_path(path).exists())
    if found.accepted is None:
        assert found.refused is not None
        row = f"row {found.refused.rows[0]}: " if len(found.refused.rows) else ""
        raise DataError(f"{found.name}: {row}{found.refused.detail}")
    gaps = {"id_gaps": found.gaps, "ids_missing": found.missing}
    report = _report(found.accepted, found.rows_read, dropped=found.dropped, **gaps)
    return _file_tape(path, found.accepted, report)


def _file_tape(path: Path, trades: Trades, report: TapeReport) -> Tape:
    """Return the tape of a file. Nothing says that it has all trades of its first day and of its last."""
    first, last = day_of(report.first_time), day_of(report.last_time)
    edges = (f"{first} (begin and end)",) if first == last else (f"{first} (begin)", f"{last} (end)")
    return Tape(trades, report, source=path.name, open_days=edges)


def _report(trades: Trades, rows_read: int, **found: Any) -> TapeReport:
    return TapeReport(rows_read, len(trades), int(trades.time[0]), int(trades.time[-1]), **found)
