"""Mark prices and funding rates that can't be: refused alike by verify, import, fetch and tape."""

from __future__ import annotations

import gzip
from collections.abc import Callable, Iterator
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.history import HEADERS, History, HistoryServer, Run, some_trades, zipped

from voltrade.config import Config
from voltrade.data import sources
from voltrade.data.archive_files import ArchiveFile
from voltrade.data.kinds import FUNDING, MARKS, Kind, start_of
from voltrade.data.rest_pages import with_specials
from voltrade.data.series_checks import FUNDING_RATES, MARK_KLINES, inspect_values, rows_missing
from voltrade.data.store import Store
from voltrade.data.stored_day import Metadata
from voltrade.data.tape import stored_trades
from voltrade.errors import DataError
from voltrade.model import DAY_MS, HOUR_MS, Funding, Int64s
from voltrade.simulated.mark_columns import funding_holes, mark_columns
from voltrade.simulated.symbols import shipped_instrument

BTCUSDT = shipped_instrument("BTCUSDT")
DAY = date(2026, 1, 31)
TIMES = start_of(DAY.replace(day=1)) + np.arange(0, 31 * DAY_MS, 60_000)
HISTORY = History(some_trades("BTCUSDT", DAY, days=1, a_day=300), start_of(DAY) + 2 * DAY_MS, TIMES, TIMES[::480])
NOW = HISTORY.now
MARK_FILE, FUNDING_FILE = ArchiveFile(MARKS, "BTCUSDT", DAY, DAY), ArchiveFile.of_month(FUNDING, "BTCUSDT", DAY)

E8 = 100_000_000
CASES: dict[str, tuple[ArchiveFile, dict[str, str], str]] = {
    "high below low": (MARK_FILE, {"high": "59000.5"}, "high must be at least open and close, was 59000.5"),
    "low above close": (MARK_FILE, {"close": "60001", "high": "60001", "low": "60000.9"},
                        "low must be at most open and close, was 60000.9"),
    "high below open alone": (MARK_FILE, {"open": "60000", "high": "59500", "low": "59000", "close": "59400"},
                              "high must be at least open and close, was 59500"),
    "low above open alone": (MARK_FILE, {"open": "60000", "high": "61000", "low": "60500", "close": "60700"},
                             "low must be at most open and close, was 60500"),
    "a rate of 80 %": (FUNDING_FILE, {"last_funding_rate": "0.8"},
                       "last_funding_rate must be from -0.1 to 0.1, was 0.8"),
    "a rate of -10.000001 %": (FUNDING_FILE, {"last_funding_rate": "-0.10000001"},
                               "last_funding_rate must be from -0.1 to 0.1, was -0.10000001"),
    "an interval of 16 hours": (FUNDING_FILE, {"funding_interval_hours": "16"},
                                "funding_interval_hours must be one of 1, 2, 4, 8, was 16"),
    "an interval of 5 hours": (FUNDING_FILE, {"funding_interval_hours": "5"},
                               "funding_interval_hours must be one of 1, 2, 4, 8, was 5"),
    "an interval of 0 hours": (FUNDING_FILE, {"funding_interval_hours": "0"},
                               "funding_interval_hours must be a number of hours, was 0"),
}  # fmt: skip
ANY = {"startTime": "0", "endTime": str(2**60), "limit": "9"}
LINE = 92
"""Of the last day in both files."""


def spoiled(file: ArchiveFile, cells: dict[str, str], line: int = LINE) -> str:
    """Return the file's text with some cells of one line changed."""
    lines, names = HISTORY.csv(file).splitlines(), HEADERS[file.kind].split(",")
    row = lines[line - 1].split(",")
    for name, value in cells.items():
        row[names.index(name)] = value
    lines[line - 1] = ",".join(row)
    return "\n".join(lines) + "\n"


@pytest.fixture(scope="module")
def server() -> Iterator[HistoryServer]:
    with HistoryServer(HISTORY).running() as server:
        server.takes_s = 0.0
        yield server


def fetch(server: HistoryServer, kind: Kind) -> list[str]:
    days = ("--from", str(DAY), "--to", str(DAY), "--kinds", kind.name)
    if kind is FUNDING:  # the archive has months only
        days = ("--from", str(DAY.replace(day=1)), *days[2:])
    return ["fetch", "BTCUSDT", *days, "--archive", server.address, "--rest", server.address]


@pytest.mark.parametrize("name", CASES)
def test_values_that_can_not_be_are_refused_by_every_command(
    tmp_path: Path, run: Run, server: HistoryServer, name: str
) -> None:
    file, cells, rule = CASES[name]
    path = tmp_path / file.name.replace(".zip", ".csv")
    path.write_text(spoiled(file, cells))
    said = f"impossible_value in 1 row ({LINE}): {rule} [drop]"
    status, words = run("verify", str(path))
    assert (status, said in words) == (1, True), words
    status, words = run("import", "BTCUSDT", str(path), "--policy", "impossible_value=refuse")
    assert (status, said.replace("drop", "refuse") in words) == (1, True), words
    assert Store(tmp_path / "store").days(file.kind, "BTCUSDT") == []
    status, words = run("import", "BTCUSDT", str(path))
    assert (status, said in words) == (1, True), "the row is not taken"
    rows = sum(day.rows for day in Store(tmp_path / "store").days(file.kind, "BTCUSDT"))
    assert rows == len(HISTORY.lines(file.kind, file.first, file.last)) - 1


@pytest.mark.parametrize("name", CASES)
def test_a_fetch_takes_the_row_of_a_value_that_can_not_be_from_rest(
    tmp_path: Path, run: Run, server: HistoryServer, name: str
) -> None:
    file, cells, rule = CASES[name]
    server.files.clear()
    server.put(file, spoiled(file, cells))
    status, words = run(*fetch(server, file.kind))
    assert (status, f"impossible_value in 1 row ({LINE}): {rule} [drop]" in words) == (0, True), words
    rows = sum(day.rows for day in Store(tmp_path / "store").days(file.kind, "BTCUSDT"))
    assert rows == len(HISTORY.lines(file.kind, file.first, file.last))


CUT_WORDS = "the last line must end with a line break, since its number may be cut [drop]"


Packed = Callable[[bytes], bytes]


@pytest.mark.parametrize("pack", [bytes, gzip.compress], ids=["plain", "gz"])
@pytest.mark.parametrize("cut", [1, 4, 6, 8])
@pytest.mark.parametrize("file", [FUNDING_FILE, MARK_FILE], ids=["funding", "marks"])
def test_a_last_line_that_may_be_cut_within_its_number_is_not_taken(
    tmp_path: Path, run: Run, file: ArchiveFile, cut: int, pack: Packed
) -> None:
    """Of -0.00375000 a copy that stopped may have -0.0037, which is a rate too."""
    text = HISTORY.csv(file).removesuffix("\n")
    last = text.splitlines()[-1].rpartition(",")[2]
    kept = text[: len(text) - min(cut, len(last)) + 1]
    path = tmp_path / file.name.replace(".zip", ".csv" if pack is bytes else ".csv.gz")
    path.write_bytes(pack(kept.encode()))
    status, words = run("import", "BTCUSDT", str(path))
    count = len(kept.splitlines())
    assert (status, f"cut_line in 1 row ({count}): {CUT_WORDS}" in words) == (1, True), words
    rows = sum(day.rows for day in Store(tmp_path / "store").days(file.kind, "BTCUSDT"))
    assert rows == count - 2
    path.write_bytes(pack(f"{text}\n".encode()))
    assert run("import", "BTCUSDT", str(path))[0] == 0


@pytest.mark.parametrize(
    ("last", "end", "is_told"),
    [("quantity", "", True), ("quantity", "\n", False), ("is_buyer_maker", "", False), ("is_buyer_maker", "\n", False)],
)
@pytest.mark.parametrize(("name", "pack"), [("trades.csv", bytes), ("trades.csv.gz", gzip.compress)])
def test_a_last_trade_whose_number_may_be_cut_is_not_taken(
    tmp_path: Path, run: Run, last: str, end: str, is_told: bool, name: str, pack: Packed
) -> None:
    names = ["id", "price", "quantity", "time", "is_buyer_maker"]
    names.sort(key=lambda name: name == last)
    at = start_of(DAY)
    cells = [{"price": "60000", "quantity": "1.25", "is_buyer_maker": "true", "id": "7", "time": str(at)}] * 2
    cells[1] = {**cells[1], "id": "8"}
    path = tmp_path / name
    lines = [",".join(names), *(",".join(row[column] for column in names) for row in cells)]
    path.write_bytes(pack(("\n".join(lines) + end).encode()))
    for given in (("verify", str(path), "--symbol", "BTCUSDT"), ("import", "BTCUSDT", str(path))):
        status, words = run(*given)
        assert (status, f"cut_line in 1 row (3): {CUT_WORDS}" in words) == (int(is_told), is_told), words


def test_pages_of_rest_are_held_to_the_same(run: Run, server: HistoryServer, monkeypatch: pytest.MonkeyPatch) -> None:
    server.files.clear()
    at = start_of(DAY)
    mark = [at, "60000", "59000", "59000", "60000", "0"]
    rate = {"symbol": "BTCUSDT", "fundingTime": at, "fundingRate": "0.80000000"}
    with monkeypatch.context() as patch:
        patch.setattr(server, "_marks", lambda wanted: [mark] * (int(wanted["startTime"]) <= at))
        patch.setattr(server, "_funding", lambda wanted: [rate] * (int(wanted["startTime"]) <= at))
        status, words = run(*fetch(server, MARKS))
        assert (
            status,
            "REST marks: 1 rows: with faults\n    impossible_value in 1 row (1): high must be at least" in words,
        ) == (1, True), words
        status, words = run(*fetch(server, FUNDING))
        assert (
            status,
            "REST funding: 1 rows: with faults\n    impossible_value in 1 row (1): last_funding_rate must be" in words,
        ) == (
            1,
            True,
        ), words


@pytest.mark.parametrize(
    ("kind", "values", "rule"),
    [
        (MARKS, (60_000, 59_000, 59_000, 60_000), "high must be at least open and close, was 59000"),
        (FUNDING, (0.8, 0), "last_funding_rate must be from -0.1 to 0.1, was 0.8"),
    ],
)
def test_what_an_older_version_stored_is_refused_as_a_tape_and_named_by_verify(
    tmp_path: Path, run: Run, kind: Kind, values: tuple[float, ...], rule: str
) -> None:
    store, times = Store(tmp_path / "store"), np.array([start_of(DAY)])
    trades = HISTORY.trades
    store.add_trades(trades, Metadata.of(BTCUSDT, "made"))
    scale = [E8] * (4 if kind is MARKS else 1) + [1]
    columns = [times, *(np.array([round(value * by)]) for value, by in zip(values, scale, strict=False))]
    store.add(kind, "BTCUSDT", columns, times, Metadata.of_values({"made": {}}))
    with pytest.raises(DataError) as refusal:
        stored_trades(f"store:BTCUSDT:{DAY}", BTCUSDT, store)
    assert str(refusal.value) == f"{kind.name}/BTCUSDT/{DAY}.parquet: at {times[0]} {rule}"
    status, words = run("verify")
    assert (status, f"impossible_value in 1 row (1): {rule} [drop]" in words) == (1, True), words


def test_a_tape_made_by_hand_is_held_to_the_bound_of_rates() -> None:
    at, trades = int(HISTORY.trades.time[150]), HISTORY.trades
    interval_ms = Config().execution.mark_interval_s * 1_000

    def played(rate_e8: int) -> int:
        funding = Funding(np.array([at]), np.array([rate_e8]))
        columns = mark_columns(trades, BTCUSDT, 8 * 3_600_000, interval_ms=interval_ms, seed=0, funding=funding)
        return int(columns.funding_rate_e8[0])

    assert played(10_000_000) == 10_000_000
    with pytest.raises(DataError, match=rf"funding: rate must be from -0\.1 to 0\.1, was 0\.10000001 at {at}"):
        played(10_000_001)


def test_a_rate_at_the_bound_is_taken_and_a_price_of_0_has_one_fault() -> None:
    times = start_of(DAY) + np.arange(3) * 28_800_000
    bound = (times, np.array([-10_000_000, 0, 10_000_000]), np.zeros(3, np.int64))
    assert inspect_values("x", bound, FUNDING_RATES).findings == ()
    prices = np.full(3, 60_000 * E8)
    marks = (times[0] + np.arange(3) * 60_000, np.array([0, *prices[1:]]), prices, prices, prices)
    assert [each.fault for each in inspect_values("x", marks, MARK_KLINES).findings] == ["not_positive"]


@pytest.mark.parametrize(
    ("hours", "until", "missing"),
    [((0, 8), 16, [16]), ((0, 8), 15, []), ((0, 8, 24), 24, [16])],
)
def test_missing_funding_is_counted_up_to_the_end(hours: tuple[int, ...], until: int, missing: list[int]) -> None:
    hour, begin = HOUR_MS, start_of(DAY)
    times = begin + np.array(hours) * hour
    found = funding_holes(Funding(times, times * 0), begin - 1, begin + until * hour).missing
    assert ((found - begin) // hour).tolist() == missing


def test_a_day_that_states_no_interval_lacks_none_by_what_the_next_day_states() -> None:
    def rows(hours: list[int], stated: int) -> tuple[Int64s, ...]:
        times = start_of(DAY) + np.array(hours) * HOUR_MS
        return times, times * 0, times * 0 + stated

    span = (start_of(DAY), start_of(DAY) + DAY_MS)
    before, at_edges = rows_missing(FUNDING_RATES, rows([0, 8, 16], 0), span, following=rows([24, 28, 32], 4))
    assert (before.sum(), at_edges) == (0, 0)


def test_a_sound_file_has_no_such_fault(tmp_path: Path, run: Run) -> None:
    path = tmp_path / f"{MARK_FILE.name.removesuffix('.zip')}.zip"
    path.write_bytes(zipped(path.name, HISTORY.csv(MARK_FILE)))
    status, words = run("import", "BTCUSDT", str(path))
    assert (status, "ok" in words) == (0, True), words


@pytest.mark.parametrize(
    ("line", "hours", "missing"),
    [
        (91, 4, 1),  # of 30 January, 16:00
        (91, 1, 7),
        (92, 4, 1),  # of 31 January, 00:00: what lacks before it is the day before's
        (92, 1, 7),
        (93, 2, 3),
    ],
)
def test_one_interval_that_is_shorter_than_the_others_is_asked_for_and_told(
    run: Run, server: HistoryServer, line: int, hours: int, missing: int
) -> None:
    """By what ends there, or what begins there, as many are missing: told are those before it."""
    text = spoiled(FUNDING_FILE, {"funding_interval_hours": str(hours)}, line)
    server.files.clear()
    server.put(FUNDING_FILE, text)
    status, words = run(*fetch(server, FUNDING))
    day = "2026-01-31" if line == 93 else "2026-01-30"
    assert (status, f"funding: {missing} rows are missing on {day}, at REST too" in words) == (1, True), words
    status, words = run("verify")
    assert (status, f"funding/BTCUSDT/{day}: 3 rows: with faults\n    id_gap" in words) == (1, True), words
    assert words.count("id_gap") == 2, "the day's, and the summary's"


@pytest.mark.parametrize(
    ("late_ms", "rate", "fault"),
    [(3, "0.00010000", "duplicate_id"), (-3, "0.00010000", "duplicate_id"), (3, "0.00020000", "conflicting_id")],
)
def test_a_funding_that_a_file_states_twice_some_milliseconds_apart_is_one(
    tmp_path: Path, run: Run, late_ms: int, rate: str, fault: str
) -> None:
    lines = HISTORY.csv(FUNDING_FILE).splitlines()
    at = int(lines[LINE - 1].split(",")[0])
    lines.insert(LINE, f"{at + late_ms},8,{rate}")
    path = tmp_path / FUNDING_FILE.name.replace(".zip", ".csv")
    path.write_text("\n".join(lines) + "\n")
    refused = fault == "conflicting_id"
    for command in (("verify",), ("import", "BTCUSDT")):
        status, words = run(*command, str(path))
        assert status == (1 if refused or command == ("verify",) else 0)
        assert f"{fault} in 1 row ({LINE + 1}): " in words
        assert "id_gap" not in words
    rows = sum(day.rows for day in Store(tmp_path / "store").days(FUNDING, "BTCUSDT"))
    assert rows == (0 if refused else len(lines) - 2)


@pytest.mark.parametrize("rate", ["0.00010000", "0.00020000"])
def test_rest_that_states_the_same_funding_some_milliseconds_later_adds_no_row(
    tmp_path: Path,
    run: Run,
    server: HistoryServer,
    monkeypatch: pytest.MonkeyPatch,
    rate: str,
) -> None:
    """The file lacks the row of 08:00, so that REST is asked for the day; an older version stored 7 ms at 16:00."""
    store, begin = Store(tmp_path / "store"), start_of(DAY)
    times = begin + 28_800_000 * np.array([0, 2]) + [0, 7]
    columns = [times, np.array([10_000, 10_000]), np.array([8, 8])]
    made = Metadata.of_values({"file": {}}, begins=True, ends=True)
    store.add(FUNDING, "BTCUSDT", columns, times, made, whole=(DAY, DAY))
    server.files.clear()
    page = [{"fundingTime": begin + 28_800_000 * n + 4, "fundingRate": rate} for n in range(3)]
    monkeypatch.setattr(server, "_funding", lambda wanted: page if int(wanted["startTime"]) <= begin else [])
    days = ("--from", str(DAY), "--to", str(DAY), "--kinds", "funding")
    status, words = run("fetch", "BTCUSDT", *days, "--archive", server.address, "--rest", server.address)
    agrees = rate == "0.00010000"
    assert status == (0 if agrees else 1), words
    assert ("rows of one time must agree" in words) != agrees
    (stored,) = store.days(FUNDING, "BTCUSDT")
    assert stored.rows == (3 if agrees else 2)
    if agrees:
        assert store.rows(FUNDING, "BTCUSDT", DAY)[0].tolist() == [begin + 28_800_000 * n for n in range(3)]
        assert run("verify")[0] == 0


def test_a_store_that_has_a_funding_twice_says_so_and_counts_it_once() -> None:
    """As an older version stored a row of a file, and the same of REST, which states no interval."""
    begin = start_of(DAY)
    times = np.array([begin + 28_800_000 * n + late for n in range(3) for late in (0, 3)])
    rates, hours = np.full(6, 10_000), np.array([8, 0] * 3)
    span = (begin, begin + DAY_MS)
    found = inspect_values("stored", (times, rates, hours), FUNDING_RATES, span=span, due=span)
    assert [(each.fault, each.rows.tolist()) for each in found.findings] == [("duplicate_id", [2, 4, 6])]
    assert found.missing == 0


def test_rows_of_one_funding_time_that_state_different_hours_conflict() -> None:
    begin = start_of(DAY)
    columns = (np.array([begin, begin]), np.array([10_000, 10_000]), np.array([8, 4]))
    found = inspect_values("two", columns, FUNDING_RATES)
    assert [(each.fault, each.rows.tolist()) for each in found.findings] == [("conflicting_id", [2])]


SPECIAL = start_of(DAY) + DAY_MS // 3


def _page(wanted: dict[str, str], at: int = SPECIAL, each: int = 1) -> list[dict[str, Any]]:
    """Rows of a day in the order of time, some regular ones together with a special one."""
    times = [start_of(DAY) + DAY_MS // 3 * n for n in range(3)]
    rows = [{"fundingTime": time, "fundingRate": "0.00010000", "rateType": "Regular"} for time in times]
    rows += [{"fundingTime": at, "fundingRate": "-0.00250000", "rateType": "Special"}] * each
    inside = [row for row in rows if int(wanted["startTime"]) <= int(str(row["fundingTime"])) <= int(wanted["endTime"])]
    return sorted(inside, key=lambda row: int(str(row["fundingTime"])))[: int(wanted["limit"])]


@pytest.mark.parametrize(("limit", "at"), [(1_000, 0), (3, 0), (2, 0), (3, -7), (2, -7), (3, 7), (2, 7)])
def test_a_special_rate_beside_the_regular_one_is_paid_too(
    tmp_path: Path,
    run: Run,
    server: HistoryServer,
    monkeypatch: pytest.MonkeyPatch,
    limit: int,
    at: int,
) -> None:
    """Both are rows of one time at REST, or some milliseconds apart; a page may end between them."""
    monkeypatch.setattr(sources, "RATES_PER_PAGE", limit)
    monkeypatch.setattr(server, "_funding", lambda wanted: _page(wanted, SPECIAL + at))
    server.files.clear()
    days = ("--from", str(DAY), "--to", str(DAY), "--kinds", "funding")
    status, words = run("fetch", "BTCUSDT", *days, "--archive", server.address, "--rest", server.address)
    assert (status, f"special_funding: at {SPECIAL + at} -0.00250000 beside the regular rate [flag]" in words) == (
        0,
        True,
    ), words
    times, rates, _, special = Store(tmp_path / "store").rows(FUNDING, "BTCUSDT", DAY)
    assert (rates.tolist(), special.tolist()) == ([10_000] * 3, [0, -250_000, 0])
    assert times[1] == SPECIAL
    assert run("verify")[0] == 0


@pytest.mark.parametrize(
    ("page", "rates"),
    [
        (_page(ANY), ["0.00010000 0 0", "0.00010000 -0.00250000 0", "0.00010000 0 0"]),
        (_page(ANY, SPECIAL + 7), ["0.00010000 0 0", "0.00010000 -0.00250000 0", "0.00010000 0 0"]),
        (_page(ANY, each=2), ["0.00010000 0 0", "0.00010000 -0.00500000 0", "0.00010000 0 0"]),
        (_page(ANY, SPECIAL + 3_600_000)[1:], ["0.00010000 0 0", "0 -0.00250000 -1", "0.00010000 0 0"]),
        (_page(ANY, SPECIAL + 3_600_000, 2)[2:], ["0 -0.00500000 -1", "0.00010000 0 0"]),
        ([{"fundingTime": "x", "fundingRate": "1", "rateType": "Special"}], ["1 0 0"]),
        ([{"fundingTime": 1, "fundingRate": "a"}], ["a 0 0"]),
    ],
)
def test_special_rates_are_put_beside_the_regular_one_of_their_minute(page: list[Any], rates: list[str]) -> None:
    told = [f"{row['fundingRate']} {row['special']} {row['hours']}" for row in with_specials(page)[0]]
    assert told == rates
