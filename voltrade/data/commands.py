"""`python -m voltrade data ...`: fetches history into the store, lists it, and checks it and other files."""

from __future__ import annotations

import argparse
import asyncio
import os
import sys
import tempfile
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import date, timedelta
from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import Any

from voltrade.data.archive_files import ArchiveFile, checksum_path
from voltrade.data.day_checks import inspect_days, inspect_store
from voltrade.data.faults import FAULTS, Inspection, Policies, policies
from voltrade.data.fetch import DOWNLOADS, Fetcher
from voltrade.data.file_checks import inspect_file, rows_not_taken, store_file
from voltrade.data.kinds import KINDS, TRADES, Kind, day_of, days_text
from voltrade.data.mark_basis import compared_with_trades
from voltrade.data.midnights import resolve_midnights
from voltrade.data.readable_store import ReadableStore
from voltrade.data.sources import ARCHIVE, ARCHIVE_ADDRESS, REST, REST_ADDRESS, Archive, Http, RestHistory
from voltrade.data.store import STORE, Store
from voltrade.data.stored_day import StoredDay
from voltrade.data.trade_files import COLUMN_NAMES
from voltrade.errors import ConfigError, DataError, VoltradeError
from voltrade.exchange.filters import instrument_of
from voltrade.model import Instrument, money
from voltrade.simulated.symbols import shipped_instrument, shipped_symbols

DESCRIPTION = """
Keep trades, mark prices and funding rates of Binance USD-M Futures in a store: Parquet files by symbol and UTC day.

fetch downloads them from Binance's public archive, and over REST what the archive does not have yet. A stored range is
a tape: -p tape store:BTCUSDT:2026-01-01:2026-01-07 in a notebook, tape="store:..." in a backtest.
"""


def main(argv: Sequence[str]) -> int:
    """Run `python -m voltrade data`; return its exit status: 0, 1 for faults or incomplete days, 2 for an error."""
    given = _parser().parse_args(argv)
    try:
        status: int = given.do(given)
    except (VoltradeError, OSError) as error:
        print(f"data {given.command}: {error}", file=sys.stderr)
        return 2
    return status


ENDINGS = (".zip", ".csv", ".csv.gz", ".parquet")
"""Endings of files of trades; other files in a folder are ignored."""

# --- what is asked ----------------------------------------------------------------------------------------------------


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m voltrade data", description=DESCRIPTION, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    fetch = _command(commands, "fetch", _fetch, "fetch a symbol's history into the store, up to now")
    fetch.add_argument("symbol", metavar="SYMBOL")
    fetch.add_argument("--days", type=_count, help="so many days back from today, and today so far (default 7)")
    fetch.add_argument("--kinds", nargs="+", choices=KINDS, default=list(KINDS), help="what to fetch (default: all)")
    fetch.add_argument("--downloads", type=_count, default=DOWNLOADS, help=f"files at a time (default {DOWNLOADS})")
    fill = _command(commands, "fill", _fill, "ask REST for ids that are missing between stored trades")
    fill.add_argument("symbol", metavar="SYMBOL")
    for command in (fetch, fill):
        command.add_argument("--from", dest="first", type=date.fromisoformat, metavar="DAY", help="first UTC day")
        command.add_argument("--to", dest="last", type=date.fromisoformat, metavar="DAY", help="last UTC day")
        command.add_argument(
            "--rest", type=_address, default=os.environ.get(REST, REST_ADDRESS), help=f"REST address; or ${REST}"
        )
    archive = os.environ.get(ARCHIVE, ARCHIVE_ADDRESS)
    fetch.add_argument("--archive", type=_address, default=archive, help=f"archive address; or ${ARCHIVE}")
    verify = _command(commands, "verify", _verify, "name every fault of files, or of all that is stored, with its rows")
    verify.add_argument("paths", nargs="*", type=Path, metavar="PATH", help="files, or folders of them; else the store")
    verify.add_argument("--symbol", help="of files whose name does not say it")
    add = _command(commands, "import", _import, "put files of trades into the store")
    add.add_argument("symbol", metavar="SYMBOL")
    add.add_argument("paths", nargs="+", type=Path, metavar="FILE")
    for command in (fetch, fill, verify, add):
        command.add_argument("--tick", type=_decimal, help="price tick of the days given, where it isn't today's")
        command.add_argument("--step", type=_decimal, help="quantity step of these days")
    for command in (verify, add):
        command.add_argument(
            "--columns", type=_columns, help="the file's names of our columns: price=px,quantity=sz,side=taker"
        )
    for command in (fetch, fill, verify, add):
        words = "what to do with the rows of a fault; see below"
        command.add_argument("--policy", action="append", default=[], metavar="FAULT=POLICY", help=words)
        command.formatter_class = argparse.RawDescriptionHelpFormatter
        command.epilog = _faults()
    _command(commands, "list", _list, "list what is stored")
    return parser


def _command(commands: Any, name: str, do: Any, words: str) -> argparse.ArgumentParser:
    command: argparse.ArgumentParser = commands.add_parser(name, help=words, description=words)
    command.add_argument("--store", help=f"folder or address of the store; or ${STORE} (default: data)")
    command.set_defaults(do=do)
    return command


def _faults() -> str:
    """Return every fault with its policies, the default first, and its rule."""
    lines = ["faults, policies (the first is the default) and rules:"]
    for name, fault in FAULTS.items():
        choices = "|".join([fault.policy, *(policy for policy in fault.allowed if policy is not fault.policy)])
        lines.append(f"  {name:15} {choices:17} {fault.rule}")
    return "\n".join(lines)


def _columns(text: str) -> dict[str, str]:
    pairs = [part.partition("=") for part in text.split(",")]
    for ours, _, their in pairs:
        if ours not in COLUMN_NAMES or not their:
            names = ", ".join(COLUMN_NAMES)
            raise argparse.ArgumentTypeError(f"must be NAME=THEIRS,..., with a NAME of {names}, was {text!r}")
    return {ours: their for ours, _, their in pairs}


def _count(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"must be at least 1, was {text}")
    return number


def _address(text: str) -> str:
    if not text.startswith(("http://", "https://")):
        raise argparse.ArgumentTypeError(f"must begin with http:// or https://, was {text!r}")
    return text


def _decimal(text: str) -> Decimal:
    try:
        number = Decimal(text)
    except InvalidOperation:
        raise argparse.ArgumentTypeError(f"must be a number, was {text!r}") from None
    if not (number.is_finite() and number > 0):
        raise argparse.ArgumentTypeError(f"must be positive, was {text!r}")
    return number


def _policies(given: argparse.Namespace) -> Policies:
    pairs = [text.partition("=") for text in given.policy]
    return policies({fault: policy for fault, _, policy in pairs})


def _known_instrument(given: argparse.Namespace, symbol: str) -> Instrument | None:
    """Return a symbol with shipped or given tick and step; None where both are missing."""
    if symbol in shipped_symbols():
        shipped = shipped_instrument(symbol)
        tick, step = given.tick or shipped.tick_size, given.step or shipped.step_size
        return replace(shipped, tick_size=tick, step_size=step, max_price=int(shipped.price(shipped.max_price) / tick))
    if given.tick is None or given.step is None:
        return None
    return Instrument(
        symbol, symbol, "", given.tick, given.step, 1, 1 << 31, 1 << 31, money(0), Decimal(1), Decimal(1), Decimal(1),
        max_price=1 << 30, source="--tick and --step",
    )  # fmt: skip


def _instrument(given: argparse.Namespace, symbol: str) -> Instrument:
    known = _known_instrument(given, symbol)
    if known is None:
        raise ConfigError(f"symbol: {symbol}'s tick and step are not shipped: give --tick and --step")
    return known


# --- fetch and fill ---------------------------------------------------------------------------------------------------


def _fetch(given: argparse.Namespace) -> int:
    today = day_of(_now())
    last = given.last or today
    first = given.first or last - timedelta(given.days or 7)
    if first > last:
        raise ConfigError(f"from: must not be after {last}, was {first}")
    if given.days and given.first:
        raise ConfigError("days: must not be given with --from")
    return asyncio.run(_fetch_range(given, first, last))


async def _fetch_range(given: argparse.Namespace, first: date, last: date) -> int:
    store, chosen = ReadableStore(given.store), _policies(given)
    kinds = [KINDS[name] for name in given.kinds]
    print(f"asking {given.archive}, then {given.rest}", file=sys.stderr)
    async with _fetching(given, store, chosen, given.archive, given.downloads) as fetcher:
        incomplete = await fetcher.fetch(first, last, kinds)
    if fetcher.ids_missing:
        _print_filled(fetcher.ids_missing, fetcher.ids_filled)
    if fetcher.without_trades:
        print(f"trades: none was made on {days_text(fetcher.without_trades)}, as the ids around join or REST says")
    if fetcher.unproven:
        print(f"trades: nothing says that the archive's days are whole, since {fetcher.unproven}")
    if fetcher.unasked:
        print(f"funding: nothing says that the archive's days have all rows, since {fetcher.unasked}")
    for (kind, day), rows in fetcher.rows_missing.items():
        print(f"{kind.name}: {rows:,} rows are missing on {day}, at REST too")
    _print_incomplete(incomplete)
    _print_stored(store, given.symbol, kinds, first, last)
    refused = any(inspection.refused for inspection in fetcher.found)
    lacks = fetcher.ids_filled < fetcher.ids_missing or fetcher.rows_missing or fetcher.unproven or fetcher.unasked
    return 1 if refused or store.unreadable or fetcher.contradicted or incomplete or lacks else 0


def _fill(given: argparse.Namespace) -> int:
    return asyncio.run(_fill_range(given, given.first or date.min, given.last or date.max))


async def _fill_range(given: argparse.Namespace, first: date, last: date) -> int:
    store, chosen = ReadableStore(given.store), _policies(given)
    print(f"asking {given.rest}", file=sys.stderr)
    async with _fetching(given, store, chosen) as fetcher:
        missing, filled = await fetcher.fill(first, last)
    _print_filled(missing, filled)
    return 1 if store.unreadable or fetcher.contradicted or filled < missing else 0


@asynccontextmanager
async def _fetching(
    given: argparse.Namespace,
    store: ReadableStore,
    chosen: Policies,
    archive: str = ARCHIVE_ADDRESS,
    downloads: int = DOWNLOADS,
) -> AsyncIterator[Fetcher]:
    """Make a fetcher of the symbol; print the faults that were found at the end, also of a fetch that failed."""
    folder = (store.folder or Path(tempfile.gettempdir()) / "voltrade") / ".downloads"
    async with Http.opened() as http:
        rest, known = RestHistory(http, given.rest), _known_instrument(given, given.symbol)
        instrument = known or instrument_of(await rest.exchange_info(), given.symbol, "exchangeInfo")
        fetcher = Fetcher(store, instrument, Archive(http, archive, folder), rest, _now, chosen, downloads)
        try:
            yield fetcher
        finally:
            for inspection in (*store.unreadable.values(), *fetcher.found):
                _print_inspection(inspection)
            for words in fetcher.contradicted.values():
                print(words)


def _now() -> int:
    return time.time_ns() // 1_000_000


def _print_filled(missing: int, filled: int) -> None:
    still = f", {missing - filled:,} are still missing" if filled < missing else ""
    print(f"{missing:,} ids were missing, {filled:,} came over REST{still}")


def _print_incomplete(incomplete: Sequence[tuple[Kind, date]]) -> None:
    days: dict[str, list[str]] = {}
    for kind, day in incomplete:
        days.setdefault(kind.name, []).append(str(day))
    for name, of_kind in days.items():
        print(f"{name}: not all of {', '.join(of_kind)}")


def _print_stored(store: Store, symbol: str, kinds: Sequence[Kind], first: date, last: date) -> None:
    for kind in kinds:
        days = [day for day in store.days(kind, symbol) if first <= day.day <= last]
        rows, size = sum(day.rows for day in days), sum(day.size for day in days)
        print(f"{symbol} {kind.name}: {len(days)} days, {rows:,} rows, {size / 1e6:,.1f} MB in {store.root}")


# --- verify and import ------------------------------------------------------------------------------------------------


def _verify(given: argparse.Namespace) -> int:
    chosen = _policies(given)
    store = ReadableStore(given.store)
    of_files = inspect_days(_of_files(given, chosen), chosen)
    inspections = of_files if given.paths else inspect_store(store, chosen, _now())
    count, faults = 0, Counter[str]()
    for inspection in inspections:
        count += 1
        faults.update(inspection.counts.keys())
        _print_inspection(inspection)
    if not count:
        where = ", ".join(map(str, given.paths)) or store.root
        raise DataError(f"nothing to verify in {where}")
    summary = ", ".join(f"{name} in {files}" for name, files in faults.items()) or "no fault"
    print(f"{count} file{'s' * (count != 1)}: {summary}")
    return 1 if faults else 0


def _of_files(given: argparse.Namespace, chosen: Policies) -> Iterator[tuple[ArchiveFile | None, Inspection[Any]]]:
    for path in sorted(_files(given.paths), key=lambda path: path.name):  # days of a series by their dates
        file = ArchiveFile.named(path.name)
        symbol = file.symbol if file else given.symbol
        if symbol is None:
            raise ConfigError(f"symbol: must be given for {path.name}, whose name does not say it")
        # A zip of the archive has a CHECKSUM and a recording has none; other files may have one beside them.
        has_checksum = (file is not None and path.suffix == ".zip") or checksum_path(path).exists()
        instrument = _instrument(given, symbol)
        yield file, inspect_file(path, instrument, chosen, archived=has_checksum, columns=given.columns)


def _files(paths: Sequence[Path]) -> Iterator[Path]:
    for path in paths:
        if path.is_dir():
            yield from sorted(file for file in path.rglob("*") if file.name.endswith(ENDINGS) and file.is_file())
        else:
            yield path


def _import(given: argparse.Namespace) -> int:
    store, chosen = ReadableStore(given.store), _policies(given)
    instrument = _instrument(given, given.symbol)
    lacks = False
    for path in given.paths:  # one that is refused keeps no other away
        lacks |= not _import_file(store, path, instrument, chosen, given.columns)
    found = resolve_midnights(store, store.days(TRADES, given.symbol), chosen)
    for inspection in (*found, *store.unreadable.values()):
        _print_inspection(inspection)
        lacks = True
    return 1 if lacks else 0


def _import_file(
    store: Store, path: Path, instrument: Instrument, chosen: Policies, columns: Mapping[str, str] | None
) -> bool:
    """Put a file into the store, and print what was found; return whether it was accepted, with all of its rows."""
    file = ArchiveFile.named(path.name)
    whole = (file.first, file.last) if file and path.suffix == ".zip" else None
    inspection = inspect_file(path, instrument, chosen, archived=checksum_path(path).exists(), columns=columns)
    inspection = compared_with_trades(store, instrument.symbol, inspection, chosen)
    _print_inspection(inspection)
    try:
        days = store_file(store, inspection, file.kind if file else TRADES, instrument, whole)
    except DataError as error:  # stored rows contradict it, or can't be read
        print(f"    {error}")
        return False
    for day in days:
        print(f"    {_described(day)}")
    return inspection.accepted is not None and not rows_not_taken(inspection)


def _print_inspection(inspection: Inspection[Any]) -> None:
    """Print what was found in a file: a line for it, and one for each fault."""
    dropped = "".join(f", {count:,} {kind} rows dropped" for kind, count in inspection.dropped.items())
    verdict = "refused" if inspection.refused else "ok" if not inspection.findings else "with faults"
    taken = inspection.accepted if inspection.kind == "trades" else None
    joined = "" if taken is None else f", raw trades joined to {len(taken):,} aggTrades"
    print(f"{inspection.name}: {inspection.rows_read:,} rows{dropped}{joined}: {verdict}")
    for finding in inspection.findings:
        print(f"    {finding}")


# --- list -------------------------------------------------------------------------------------------------------------


def _list(given: argparse.Namespace) -> int:
    store = ReadableStore(given.store)
    nothing = True
    for kind in KINDS.values():
        for symbol in store.symbols(kind):
            for day in store.days(kind, symbol):
                nothing = False
                print(f"{kind.name:8} {symbol:12} {_described(day)}")
    for inspection in store.unreadable.values():
        _print_inspection(inspection)
    if nothing and not store.unreadable:
        print(f"nothing is stored in {store.root}")
    return 1 if store.unreadable else 0


def _described(day: StoredDay) -> str:
    parts = [f"{day.day}  {day.rows:>11,} rows  {day.size / 1e6:>7.2f} MB"]
    if edges := [name for name, there in (("begin", day.metadata.begins), ("end", day.metadata.ends)) if not there]:
        parts.append(f"without its {' and '.join(edges)}")
    if day.missing:
        parts.append(f"{day.missing:,} missing")
    found: Mapping[str, int] = sum((Counter(counts) for counts in day.metadata.sources.values()), Counter[str]())
    parts += [f"{name} {count:,}" for name, count in found.items() if name != "id_gap"]
    return "  ".join([*parts, f"from {', '.join(day.metadata.sources)}"])
