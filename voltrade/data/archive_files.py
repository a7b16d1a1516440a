"""The names, days and CHECKSUMs of the files of Binance's archive."""

from __future__ import annotations

import calendar
import hashlib
import re
from dataclasses import dataclass, replace
from datetime import date
from pathlib import Path

from voltrade.data.faults import Span
from voltrade.data.kinds import FUNDING, MARKS, TRADES, Kind, start_of
from voltrade.model import DAY_MS

_FOLDERS = {TRADES: "aggTrades", MARKS: "markPriceKlines", FUNDING: "fundingRate"}
_LABELS = {TRADES: "aggTrades", MARKS: "1m", FUNDING: "fundingRate"}
_RAW = "trades"
_NAME = re.compile(
    rf"([A-Z0-9_]+)-(aggTrades|{_RAW}|1m|fundingRate)-(\d{{4}})-(\d{{2}})(?:-(\d{{2}}))?\.(?:zip|csv|csv\.gz|parquet)"
)


@dataclass(frozen=True, slots=True)
class ArchiveFile:
    """A zip of the archive: one kind of rows of one symbol, of a day or of a month."""

    kind: Kind
    symbol: str
    first: date
    last: date
    is_raw: bool = False
    """Whether it has raw trades instead of aggTrades."""

    @staticmethod
    def of_month(kind: Kind, symbol: str, day: date) -> ArchiveFile:
        """Return the file of the month that a day lies in."""
        days = calendar.monthrange(day.year, day.month)[1]
        return ArchiveFile(kind, symbol, day.replace(day=1), day.replace(day=days))

    @staticmethod
    def named(name: str) -> ArchiveFile | None:
        """Return the file of a name such as `BTCUSDT-aggTrades-2026-01-05.zip`; None for another name.

        Unpacked files and Parquet files of the same name count too.
        """
        match = _NAME.fullmatch(name)
        if match is None:
            return None
        symbol, label, year, month, day = match.groups()
        kind = next((kind for kind, known in _LABELS.items() if known == label), TRADES)
        try:
            first = date(int(year), int(month), int(day or 1))
        except ValueError:
            return None
        month_of = ArchiveFile.of_month(kind, symbol, first)
        return replace(month_of, last=first if day else month_of.last, first=first, is_raw=label == _RAW)

    @property
    def name(self) -> str:
        period = self.first.isoformat() if self.first == self.last else f"{self.first:%Y-%m}"
        return f"{self.symbol}-{_RAW if self.is_raw else _LABELS[self.kind]}-{period}.zip"

    @property
    def path(self) -> str:
        """The file's path in the archive."""
        often = "daily" if self.first == self.last else "monthly"
        interval = "1m/" if self.kind is MARKS else ""
        folder = _RAW if self.is_raw else _FOLDERS[self.kind]
        return f"data/futures/um/{often}/{folder}/{self.symbol}/{interval}{self.name}"

    @property
    def span(self) -> Span:
        return start_of(self.first), start_of(self.last) + DAY_MS


def checksum_path(path: Path) -> Path:
    """Return the path of a file's CHECKSUM, which is beside it as in the archive."""
    return path.with_name(f"{path.name}.CHECKSUM")


def checksum_fault(path: Path) -> str | None:
    """Return what is wrong with a file according to the CHECKSUM beside it; None where it is correct."""
    beside = checksum_path(path)
    if not beside.is_file():
        return f"there must be a {beside.name}, there is none"
    stated = beside.read_text(errors="replace").split()
    with path.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if not stated or stated[0].lower() != found:
        return f"SHA-256 must be {stated[0] if stated else 'stated'}, was {found}"
    return None
