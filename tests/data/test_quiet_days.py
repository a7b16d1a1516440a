"""Days without trades, days before a symbol was listed, and funding files that are cut at their begin or end."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import date, timedelta
from pathlib import Path

import numpy as np
import pytest
from support.history import HEADERS, History, HistoryServer, Run, some_trades

from voltrade.data.archive_files import ArchiveFile
from voltrade.data.coverage import Coverage
from voltrade.data.day_edges import due_from, open_days
from voltrade.data.kinds import FUNDING, MARKS, TRADES, days_text, start_of
from voltrade.data.store import Store
from voltrade.data.stored_day import FileContent, Metadata, merged_metadata
from voltrade.data.tape import stored_trades
from voltrade.errors import DataError
from voltrade.model import DAY_MS, HOUR_MS, MINUTE_MS, Int64s, Trades
from voltrade.simulated.symbols import shipped_instrument

FIRST = date(2026, 1, 5)
DAYS = [FIRST + timedelta(number) for number in range(4)]
BEGIN, END = start_of(FIRST), start_of(FIRST) + 4 * DAY_MS
NOW = END + 5 * DAY_MS
AROUND = some_trades("BTCUSDT", FIRST - timedelta(1), days=6, a_day=60)


def fetched(
    run: Run, trades: Trades, marks: Int64s, funding: Int64s, *kinds: str, has_files: bool = True,
    days: Sequence[date] = DAYS
) -> tuple[int, str]:  # fmt: skip
    """Fetch days of a history, in files where the archive has them."""
    server = HistoryServer(History(trades, NOW, marks, funding))
    server.takes_s = 0.0
    for kind in (TRADES, MARKS):
        if has_files:
            server.put_days(kind, "BTCUSDT", days[0], days[-1])
    with server.running():
        given = ("--from", str(days[0]), "--to", str(days[-1]), "--kinds", *kinds)
        return run("fetch", "BTCUSDT", *given, "--archive", server.address, "--rest", server.address)


def without(begin: int, end: int, renumber: bool = True) -> Trades:
    """The trades but for a time; with ids that go on, as nothing was traded then."""
    kept = (AROUND.time < begin) | (AROUND.time >= end)
    ids, *others = (column[kept] for column in AROUND.columns)
    return Trades("BTCUSDT", np.arange(1_000, 1_000 + len(ids)) if renumber else ids, *others)


NOTHING = np.empty(0, np.int64)


@pytest.mark.parametrize("days", [1, 2])
def test_a_day_without_a_trade_between_ids_that_join_is_whole(tmp_path: Path, run: Run, days: int) -> None:
    trades = without(BEGIN + DAY_MS, BEGIN + (1 + days) * DAY_MS)
    quiet = str(DAYS[1]) if days == 1 else f"{DAYS[1]} to {DAYS[2]}"
    for _ in range(2):
        status, words = fetched(run, trades, NOTHING, NOTHING, "trades")
        assert (status, f"trades: none was made on {quiet}, as the ids around join" in words) == (0, True), words
        assert run("verify")[0] == 0
    store = Store(tmp_path / "store")
    tape = stored_trades(f"store:BTCUSDT:{DAYS[0]}:{DAYS[-1]}", shipped_instrument("BTCUSDT"), store)
    assert len(tape.trades) == np.count_nonzero((trades.time >= BEGIN) & (trades.time < END))
    assert Coverage.of(tape).ids_missing == 0


@pytest.mark.parametrize(("quiet", "first", "last"), [(1, 0, 1), (1, 1, 3), (2, 2, 3), (2, 0, 2), (1, 1, 1)])
def test_a_tape_may_begin_or_end_with_a_day_without_a_trade(
    tmp_path: Path, run: Run, quiet: int, first: int, last: int
) -> None:
    trades = without(BEGIN + quiet * DAY_MS, BEGIN + (1 + quiet) * DAY_MS)
    status, words = fetched(run, trades, NOTHING, NOTHING, "trades")
    assert (status, f"trades: none was made on {DAYS[quiet]}, as the ids around join" in words) == (0, True), words
    store, name = Store(tmp_path / "store"), f"store:BTCUSDT:{DAYS[first]}:{DAYS[last]}"
    if first == last:
        with pytest.raises(DataError, match=f"must hold trades of BTCUSDT on {DAYS[first]}, has none"):
            stored_trades(name, shipped_instrument("BTCUSDT"), store)
        return
    tape = stored_trades(name, shipped_instrument("BTCUSDT"), store)
    inside = (trades.time >= BEGIN + first * DAY_MS) & (trades.time < BEGIN + (last + 1) * DAY_MS)
    assert tape.trades.time.tolist() == trades.time[inside].tolist()


def test_a_fetch_that_ends_with_a_day_without_a_trade_ends_well(run: Run) -> None:
    """As one of yesterday, each day: the next id is one of today."""
    server = HistoryServer(History(without(BEGIN + DAY_MS, BEGIN + 2 * DAY_MS), NOW, NOTHING, NOTHING))
    server.put_days(TRADES, "BTCUSDT", DAYS[0], DAYS[0])
    days = ("--from", str(DAYS[0]), "--to", str(DAYS[1]), "--kinds", "trades")
    with server.running():
        for _ in range(2):
            status, words = run("fetch", "BTCUSDT", *days, "--archive", server.address, "--rest", server.address)
            assert (status, f"trades: none was made on {DAYS[1]}, as the ids around join" in words) == (0, True), words


def test_files_around_a_day_without_a_trade_join(tmp_path: Path, run: Run) -> None:
    """Nothing proves their outer edges, but nothing is missing between them, for verify as for a tape."""
    trades = without(BEGIN + DAY_MS, BEGIN + 2 * DAY_MS)
    history = History(trades, NOW, NOTHING, NOTHING)
    paths = [tmp_path / ArchiveFile(TRADES, "BTCUSDT", day, day).name.replace(".zip", ".csv") for day in DAYS[::2]]
    for path, day in zip(paths, DAYS[::2], strict=True):
        path.write_text(history.csv(ArchiveFile(TRADES, "BTCUSDT", day, day)))
    status, words = run("verify", *map(str, paths))
    assert (status, "missing_day" in words) == (0, False), words
    assert run("import", "BTCUSDT", *map(str, paths))[0] == 0
    _, words = run("verify")
    assert "missing_day" not in words
    assert [line for line in words.splitlines() if "open_day:" in line and "REST was not asked" in line]
    edges = [line.split("the day's ")[1].split(" is stored")[0] for line in words.splitlines() if "the day's" in line]
    assert edges == ["begin", "end"]
    open_of_a_tape = open_days(Store(tmp_path / "store"), "BTCUSDT", DAYS[0], DAYS[2])
    assert open_of_a_tape == (f"{DAYS[0]} (begin)", f"{DAYS[2]} (end)")


EDGES = {
    "last": (BEGIN + 3 * DAY_MS, BEGIN + 4 * DAY_MS, [3]),
    "last two, none after": (BEGIN + 2 * DAY_MS, END + 9 * DAY_MS, [2, 3]),
    "first": (BEGIN, BEGIN + DAY_MS, [0]),
    "first two": (BEGIN, BEGIN + 2 * DAY_MS, [0, 1]),
    "first, none before": (0, BEGIN + DAY_MS, [0]),
    "first and third": (0, 0, [0, 2]),
}


@pytest.mark.parametrize("has_files", [True, False])
@pytest.mark.parametrize("name", EDGES)
def test_a_quiet_day_at_the_end_of_a_range_is_whole(tmp_path: Path, run: Run, name: str, has_files: bool) -> None:
    """REST says that no trade was made: asked once, kept in the store."""
    begin, end, quiet = EDGES[name]
    trades = without(begin, end)
    if name == "first and third":
        kept = np.isin(AROUND.time // DAY_MS - BEGIN // DAY_MS, [0, 2], invert=True)
        ids, *others = (column[kept] for column in AROUND.columns)
        trades = Trades("BTCUSDT", np.arange(1_000, 1_000 + len(ids)), *others)
    for _ in range(2):
        status, words = fetched(run, trades, NOTHING, NOTHING, "trades", has_files=has_files)
        said = f"trades: none was made on {days_text([DAYS[number] for number in quiet])}, as"
        assert (status, said in words, "refused" in words) == (0, True, False), words
        assert run("verify")[0] == 0
    store = Store(tmp_path / "store")
    tape = stored_trades(f"store:BTCUSDT:{DAYS[0]}:{DAYS[-1]}", shipped_instrument("BTCUSDT"), store)
    assert len(tape.trades) == np.count_nonzero((trades.time >= BEGIN) & (trades.time < END))
    assert (Coverage.of(tape).ids_missing, tape.open_days) == (0, ())
    for day in (DAYS[number] for number in quiet):
        with pytest.raises(DataError, match=f"must hold trades of BTCUSDT on {day}, has none: no trade was made"):
            stored_trades(f"store:BTCUSDT:{day}", shipped_instrument("BTCUSDT"), store)


def test_a_quiet_day_after_others_that_were_fetched_before(run: Run) -> None:
    """As each day is fetched on the next one, of a symbol that is no longer traded."""
    trades = without(BEGIN + DAY_MS, END + 9 * DAY_MS)
    for day in DAYS:
        status, words = fetched(run, trades, NOTHING, NOTHING, "trades", days=[day])
        assert (status, "none was made on" in words) == (0, day > DAYS[0]), words
    assert run("verify")[0] == 0


@pytest.mark.parametrize("begin", [0, 3])
def test_ids_that_rest_lost_on_a_day_at_the_end_are_no_quiet_day(run: Run, begin: int) -> None:
    trades = without(BEGIN + begin * DAY_MS, BEGIN + (begin + 1) * DAY_MS, renumber=False)
    status, words = fetched(run, trades, NOTHING, NOTHING, "trades", days=DAYS[1:] if not begin else DAYS)
    assert status == (1 if begin else 0), words
    assert "none was made" not in words


@pytest.mark.parametrize(("after", "quiet_from", "quiet"), [(2, 1, []), (3, 1, []), (3, 2, [2]), (3, None, [])])
def test_rest_is_not_believed_that_a_day_is_quiet_whose_ids_are_lost(
    tmp_path: Path, after: int, quiet_from: int | None, quiet: list[int]
) -> None:
    """Where it says so of only some of the days between, the ids may be those of the others."""
    store, instrument = Store(tmp_path), shipped_instrument("BTCUSDT")
    for day in (DAYS[0], DAYS[after]):
        inside = AROUND.time // DAY_MS == start_of(day) // DAY_MS
        trades = Trades("BTCUSDT", *(column[inside] for column in AROUND.columns))
        store.add_trades(trades, Metadata.of(instrument, "made", begins=True, ends=True))
    if quiet_from is not None:
        store.prove_quiet("BTCUSDT", DAYS[after], quiet_from=start_of(DAYS[quiet_from]))
    assert store.days_without_trades("BTCUSDT", DAYS[0], DAYS[after]) == [DAYS[number] for number in quiet]


def test_what_is_stored_around_is_read_once_for_a_range(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not the metadata of each stored day for each day that isn't stored."""
    store, read = Store(tmp_path), []
    store.add_trades(AROUND, Metadata.of(shipped_instrument("BTCUSDT"), "made"))
    real = Store.day
    monkeypatch.setattr(Store, "day", lambda self, *given: (read.append(given[-1]), real(self, *given))[1])
    after = [DAYS[-1] + timedelta(2), DAYS[-1] + timedelta(400)]
    assert store.days_without_trades("BTCUSDT", *after) == []
    assert len(read) == 1


def test_a_day_whose_ids_are_lost_is_still_missing(run: Run) -> None:
    trades = without(BEGIN + DAY_MS, BEGIN + 2 * DAY_MS, renumber=False)
    status, words = fetched(run, trades, NOTHING, NOTHING, "trades")
    assert (status, "none was made" in words) == (1, False), words
    status, words = run("verify")
    assert (status, f"missing_day: {DAYS[1]}: nothing is stored" in words) == (1, True)


@pytest.mark.parametrize("after_ms", [0, 20_500])
@pytest.mark.parametrize(("begin", "status"), [(8 * HOUR_MS + 30 * MINUTE_MS, 0), (9 * HOUR_MS + 30 * MINUTE_MS, 1)])
def test_before_the_first_trade_of_a_symbol_nothing_is_missing(
    run: Run, begin: int, status: int, after_ms: int
) -> None:
    """It is listed at 08:30; mark prices of an hour after that are missing in the second case."""
    listed = BEGIN + 8 * HOUR_MS + 30 * MINUTE_MS + after_ms
    trades = AROUND[int(np.searchsorted(AROUND.time, listed)) :]
    trades = Trades("BTCUSDT", *trades.columns[:3], np.maximum(trades.time - (trades.time[0] - listed), 0),
                    trades.columns[-1])  # fmt: skip
    marks = np.arange(BEGIN + begin, END + DAY_MS, MINUTE_MS)
    found, words = fetched(run, trades, marks, np.arange(BEGIN + 16 * HOUR_MS, END + DAY_MS, 8 * HOUR_MS),
                           "trades", "marks", "funding")  # fmt: skip
    assert found == status, words
    assert ("marks: 60 rows are missing on 2026-01-05" in words) == bool(status)
    assert run("verify")[0] == status


def test_a_symbol_that_was_traded_the_day_before_was_not_listed_then(run: Run) -> None:
    """REST has trades of the day before, which isn't stored: what lacks before the first trade is missing."""
    late = BEGIN + 9 * HOUR_MS + 30 * MINUTE_MS
    marks = np.arange(late, END + DAY_MS, MINUTE_MS)
    funding = np.arange(BEGIN + 16 * HOUR_MS, END + DAY_MS, 8 * HOUR_MS)
    status, words = fetched(run, without(BEGIN, late), marks, funding, "trades", "marks", "funding")
    for kind, rows in (("marks", 570), ("funding", 2)):
        assert f"{kind}: {rows} rows are missing on {FIRST}, at REST too" in words
    assert (status, run("verify")[0]) == (1, 1)


def test_what_there_is_before_the_first_trade_is_due_too(run: Run) -> None:
    """Listed at 08:30 with funding of 00:00 and 16:00: 08:00 is lost."""
    listed = BEGIN + 8 * HOUR_MS + 30 * MINUTE_MS
    trades = AROUND[int(np.searchsorted(AROUND.time, listed)) :]
    funding = BEGIN + np.array([0, 16, *range(24, 120, 8)]) * HOUR_MS
    status, words = fetched(run, trades, NOTHING, funding, "trades", "funding")
    assert (status, f"funding: 1 rows are missing on {FIRST}, at REST too" in words) == (1, True), words
    assert run("verify")[0] == 1


def test_a_later_day_is_due_from_its_begin_however_late_its_first_trade(run: Run) -> None:
    midnight = BEGIN + DAY_MS
    funding = np.setdiff1d(np.arange(BEGIN, END + DAY_MS, 8 * HOUR_MS), [midnight])
    trades = without(midnight, midnight + 30 * MINUTE_MS)
    status, words = fetched(run, trades, NOTHING, funding, "trades", "funding")
    assert (status, f"funding: 1 rows are missing on {DAYS[1]}, at REST too" in words) == (1, True), words


def test_a_file_of_a_day_without_a_trade_may_have_no_other_fault(run: Run) -> None:
    """It is rightly empty, but not with a row whose quantity is 0."""
    server = HistoryServer(History(without(BEGIN + DAY_MS, BEGIN + 2 * DAY_MS), NOW, NOTHING, NOTHING))
    server.put_days(TRADES, "BTCUSDT", DAYS[0], DAYS[2])
    row = f"1,60000.0,0,1,1,{BEGIN + DAY_MS + HOUR_MS},true"
    server.put(ArchiveFile(TRADES, "BTCUSDT", DAYS[1], DAYS[1]), f"{HEADERS[TRADES]}\n{row}\n")
    days = ("--from", str(DAYS[0]), "--to", str(DAYS[2]), "--kinds", "trades")
    with server.running():
        status, words = run("fetch", "BTCUSDT", *days, "--archive", server.address, "--rest", server.address)
    assert (status, "not_positive in 1 row (2)" in words) == (1, True), words


def test_rows_are_due_from_the_first_trade_only_where_rest_knows_none_before(tmp_path: Path) -> None:
    store, at = Store(tmp_path / "store"), BEGIN + 8 * HOUR_MS + 20_500
    trades = AROUND[(AROUND.time >= at) & (AROUND.time < BEGIN + DAY_MS)]
    trades.time[0] = at
    store.add_trades(trades, Metadata.of(shipped_instrument("BTCUSDT"), "made", begins=True))
    assert due_from(store, "BTCUSDT", FIRST) == BEGIN
    first = int(trades.id[0])
    for is_listing, due in ((False, BEGIN), (None, BEGIN), (True, BEGIN + 8 * HOUR_MS), (None, BEGIN + 8 * HOUR_MS)):
        store.prove_begin("BTCUSDT", FIRST, first, is_listing=is_listing)
        assert due_from(store, "BTCUSDT", FIRST) == due
    assert due_from(store, "BTCUSDT", DAYS[1]) == BEGIN + DAY_MS


def test_holes_at_the_edges_of_a_day_that_stands_alone_are_named(tmp_path: Path, run: Run) -> None:
    store = Store(tmp_path / "store")
    for number, (first, last) in {0: (0, 24), 2: (2, 22), 4: (0, 24)}.items():
        day = FIRST + timedelta(number)
        times = start_of(day) + np.arange(first * 60, last * 60) * MINUTE_MS
        prices = np.full(len(times), 60_000 * 10**8)
        store.add(MARKS, "BTCUSDT", (times, *[prices] * 4), times, Metadata.of_values({"made": {}}), whole=(day, day))
    _, words = run("verify")
    (line,) = [each for each in words.splitlines() if "rows are missing" in each]
    assert "240 rows are missing" in line, words


def test_a_day_of_contradicting_rates_spoils_no_other(tmp_path: Path, run: Run) -> None:
    """An older version stored a funding twice, 7 ms apart, with two rates."""
    store = Store(tmp_path / "store")
    for number, hours in enumerate(((0, 8, 16), (0, 8, 8, 16))):
        begin = BEGIN + number * DAY_MS
        times = begin + np.array(hours) * HOUR_MS
        times[np.flatnonzero(np.diff(times) == 0) + 1] += 7
        rates = np.full(len(times), 10_000)
        rates[2] += number  # of the second day's 08:00
        made = Metadata.of_values({"file": {}}, begins=True, ends=True)
        store.add(FUNDING, "BTCUSDT", (times, rates, times * 0 + 8), times, made, whole=(DAYS[number], DAYS[number]))
    status, words = run("verify")
    assert (status, words.count("conflicting_id in 1 row (3)"), "unreadable" in words) == (1, 1, False), words
    assert f"funding/BTCUSDT/{DAYS[0]}: 3 rows: ok" in words
    server = HistoryServer(History(AROUND, NOW, NOTHING, BEGIN + np.array([0, 8, 16]) * HOUR_MS))
    with server.running():
        days = ("--from", str(DAYS[0]), "--to", str(DAYS[0]), "--kinds", "funding")
        status, words = run("fetch", "BTCUSDT", *days, "--archive", server.address, "--rest", server.address)
    assert status == 0, words


def test_the_ids_of_raw_trades_are_those_of_the_last_import() -> None:
    """A file that an older version had imported without them is imported again; two files need both."""

    def content(raw: int | None, source: str) -> FileContent:
        metadata = Metadata("0.1", "0.001", True, True, {source: {}}, "trades", whole=True, raw_first=raw, raw_last=raw)
        return FileContent(metadata, 1, 7, 7, 1, [])

    both = merged_metadata([content(None, "a.csv"), content(50, "a.csv")])
    assert (both.raw_first, both.raw_last) == (50, 50)
    other = merged_metadata([content(None, "a.csv"), content(50, "b.csv")])
    assert (other.raw_first, other.raw_last) == (None, None)


@pytest.mark.parametrize(
    ("cut", "lacking"), [(slice(2, None), 2), (slice(-2), 2), (slice(1, None), 1), (slice(-1), 1), (slice(None), 0)]
)
def test_a_funding_file_that_is_cut_is_named_by_import_and_by_verify(
    tmp_path: Path, run: Run, cut: slice, lacking: int
) -> None:
    month = ArchiveFile.of_month(FUNDING, "BTCUSDT", date(2025, 12, 1))
    times = start_of(month.first) + np.arange(0, 31 * DAY_MS, 8 * HOUR_MS)
    rows = [f"{time},8,0.00010000" for time in times][cut]
    path = tmp_path / month.name.replace(".zip", ".csv")
    path.write_text("\n".join([HEADERS[FUNDING], *rows]) + "\n")
    _, words = run("import", "BTCUSDT", str(path))
    assert (f"{lacking} rows are missing, at the begin or end" in words) == bool(lacking), words
    status, words = run("verify")
    assert (status, words.count("id_gap: ")) == (int(lacking > 0), int(lacking > 0)), words


def test_a_hole_over_midnight_is_named_once(run: Run) -> None:
    marks = np.arange(BEGIN, END, MINUTE_MS)
    midnight = BEGIN + DAY_MS
    marks = marks[(marks < midnight - 12 * MINUTE_MS) | (marks >= midnight + 12 * MINUTE_MS)]
    status, words = fetched(run, AROUND, marks, NOTHING, "marks")
    assert (status, words.count("marks: 12 rows are missing on")) == (1, 2), "by day"
    status, words = run("verify")
    assert (status, words.count("rows are missing"), words.count("24 rows are missing after")) == (1, 1, 1), words
