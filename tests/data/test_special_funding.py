"""Special funding rates of REST, as of a dividend: alone or beside a regular one, before or after a file."""

from __future__ import annotations

from datetime import date, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.history import HEADERS, History, HistoryServer, Run, some_trades

from voltrade.config import Config
from voltrade.data.archive_files import ArchiveFile
from voltrade.data.coverage import Coverage
from voltrade.data.kinds import FUNDING, start_of
from voltrade.data.store import Store
from voltrade.data.stored_day import Metadata
from voltrade.data.tape import stored_trades
from voltrade.model import DAY_MS, HOUR_MS, MINUTE_MS
from voltrade.simulated.mark_columns import mark_columns
from voltrade.simulated.symbols import shipped_instrument

BTCUSDT = shipped_instrument("BTCUSDT")
MONTH = date(2025, 12, 1)
DAY = date(2025, 12, 11)
BEGIN, NOON = start_of(MONTH), start_of(DAY) + 8 * HOUR_MS
REGULAR = np.arange(BEGIN, BEGIN + 31 * DAY_MS, 8 * HOUR_MS)
TRADES_OF_DAY = some_trades("BTCUSDT", DAY, days=1, a_day=300)
HISTORY = History(TRADES_OF_DAY, BEGIN + 45 * DAY_MS, REGULAR[:0], REGULAR)
NOW = HISTORY.now
MONTH_FILE = ArchiveFile.of_month(FUNDING, "BTCUSDT", MONTH)


def fetched(run: Run, has_file: bool, *specials: tuple[int, str]) -> tuple[int, str]:
    """Fetch the month, with special rates at REST."""
    server = HistoryServer(HISTORY)
    sound = server._funding

    def answer(wanted: dict[str, str]) -> list[Any]:
        rows = [{**row, "rateType": "Regular"} for row in sound(wanted)]
        inside = [each for each in specials if int(wanted["startTime"]) <= each[0] <= int(wanted["endTime"])]
        rows += [{"fundingTime": time, "fundingRate": rate, "rateType": "Special"} for time, rate in inside]
        return sorted(rows, key=lambda row: int(str(row["fundingTime"])))

    server._funding = answer  # type: ignore[method-assign]
    if has_file:
        server.put(MONTH_FILE)
    with server.running():
        days = ("--from", str(MONTH), "--to", str(MONTH + timedelta(30)), "--kinds", "funding")
        return run("fetch", "BTCUSDT", *days, "--archive", server.address, "--rest", server.address)


def paid(folder: Path) -> dict[int, int]:
    """What the tape of the day pays, by minute of the day: rates in 1e-8."""
    store = Store(folder / "store")
    store.add_trades(TRADES_OF_DAY, Metadata.of(BTCUSDT, "made", begins=True, ends=True))
    tape = stored_trades(f"store:BTCUSDT:{DAY}", BTCUSDT, store)
    assert Coverage.of(tape).fundings_missing == 0
    interval_ms = Config().execution.mark_interval_s * 1_000
    columns = mark_columns(
        tape.trades, BTCUSDT, 8 * HOUR_MS, interval_ms=interval_ms, seed=0, marks=tape.marks, funding=tape.funding
    )
    rates = dict(zip(columns.next_funding_time.tolist(), columns.funding_rate_e8.tolist(), strict=True))
    return {
        (time - start_of(DAY)) // MINUTE_MS: rate
        for time, rate in rates.items()
        if time // DAY_MS * DAY_MS == start_of(DAY)
    }


@pytest.mark.parametrize("has_file", [False, True])
@pytest.mark.parametrize(
    ("specials", "rates"),
    [
        ([(NOON, "-0.00250000")], {480: -240_000, 960: 10_000}),
        ([(NOON + 7, "-0.00250000")], {480: -240_000, 960: 10_000}),
        ([(NOON, "-0.00250000"), (NOON, "-0.00100000")], {480: -340_000, 960: 10_000}),
        ([(NOON, "-0.12000000")], {480: -11_990_000, 960: 10_000}),
        ([(NOON + 40_000, "-0.00250000")], {480: 10_000, 481: -250_000, 960: 10_000}),
        ([(NOON + 330 * MINUTE_MS, "-0.00250000")], {480: 10_000, 810: -250_000, 960: 10_000}),
        ([(NOON + 330 * MINUTE_MS, "0.9"), (NOON, "0.1")], {480: 10_010_000, 810: 90_000_000, 960: 10_000}),
    ],
)
def test_a_special_rate_is_paid_once_and_nothing_is_missing(
    tmp_path: Path, run: Run, has_file: bool, specials: list[tuple[int, str]], rates: dict[int, int]
) -> None:
    """The archive's file has the regular rates alone."""
    status, words = fetched(run, has_file, *specials)
    assert (status, words.count("special_funding: at ")) == (0, 1), words
    assert run("verify")[0] == 0
    assert paid(tmp_path) == rates


def test_a_file_that_comes_after_rest_agrees_with_it(tmp_path: Path, run: Run) -> None:
    specials = [(NOON, "-0.00250000"), (NOON + 330 * MINUTE_MS, "-0.00100000")]
    assert fetched(run, False, *specials)[0] == 0
    path = tmp_path / MONTH_FILE.name.replace(".zip", ".csv")
    path.write_text(HISTORY.csv(MONTH_FILE))
    assert run("import", "BTCUSDT", str(path))[0] == 0
    assert run("verify")[0] == 0
    _, rates, hours, special = Store(tmp_path / "store").rows(FUNDING, "BTCUSDT", DAY)
    assert rates.tolist() == [10_000, 10_000, 0, 10_000]
    assert hours.tolist() == [8, 8, -1, 8]
    assert special.tolist() == [0, -250_000, -100_000, 0]


@pytest.mark.parametrize(("stored", "is_sum"), [(-240_000, True), (-239_999, False), (-250_000, False)])
def test_a_special_rate_that_an_older_version_added_is_told_as_that(
    tmp_path: Path, run: Run, stored: int, is_sum: bool
) -> None:
    """With the command that mends it; any other rate is a contradiction."""
    store, times = Store(tmp_path / "store"), start_of(DAY) + 8 * HOUR_MS * np.arange(3)
    rates = np.array([10_000, stored, 10_000])
    made = Metadata.of_values({"REST": {}}, begins=True, ends=True)
    store.add(FUNDING, "BTCUSDT", (times, rates, times * 0), times, made, whole=(DAY, DAY))
    status, words = fetched(run, False, (NOON, "-0.00250000"))
    path = f"funding/BTCUSDT/{DAY}"
    added = (
        f"{path}.parquet: the rate of {NOON} is stored as -0.00240000, the regular 0.00010000 and the special "
        f"-0.00250000 in one, as older versions stored it; delete {path}.* in the store, and python -m voltrade data "
        f"fetch BTCUSDT --from {DAY} --to {DAY} --kinds funding has them apart\n"
    )
    assert (status, added in words, "rows of one time must agree" in words) == (1, is_sum, not is_sum), words
    (tmp_path / "store" / f"{path}.parquet").unlink()
    assert fetched(run, False, (NOON, "-0.00250000"))[0] == 0
    assert paid(tmp_path) == {480: -240_000, 960: 10_000}
    assert store.rows(FUNDING, "BTCUSDT", DAY)[3].tolist() == [0, -250_000, 0]


@pytest.mark.parametrize(
    ("at", "rate"),
    [(330, "1.00000001"), (330, "-2"), (330, "x"), (0, "x"), (0, "NaN"), (0, "")],
)
def test_a_special_rate_that_can_not_be_is_dropped_alone(tmp_path: Path, run: Run, at: int, rate: str) -> None:
    status, words = fetched(run, True, (NOON + at * MINUTE_MS, rate))
    assert ("_value in 1 row" in words, paid(tmp_path)) == (True, {480: 10_000, 960: 10_000}), words
    assert status == 0, "the regular ones are all there"


def test_a_row_some_milliseconds_before_the_end_of_a_month_is_the_next_day_s(tmp_path: Path, run: Run) -> None:
    path = tmp_path / MONTH_FILE.name.replace(".zip", ".csv")
    rows = [f"{time},8,0.00010000" for time in (*REGULAR, BEGIN + 31 * DAY_MS - 4)]
    path.write_text("\n".join([HEADERS[FUNDING], *rows]) + "\n")
    assert run("verify", str(path)) == (0, f"{path.name}: 94 rows: ok\n1 file: no fault\n")
    assert run("import", "BTCUSDT", str(path))[0] == 0
    store = Store(tmp_path / "store")
    assert sum(day.rows for day in store.days(FUNDING, "BTCUSDT")) == 94
    assert store.rows(FUNDING, "BTCUSDT", date(2026, 1, 1))[0].tolist() == [BEGIN + 31 * DAY_MS]
    path.write_text("\n".join([HEADERS[FUNDING], *rows, f"{BEGIN + 31 * DAY_MS + 8 * HOUR_MS},8,0.0001"]) + "\n")
    assert "wrong_day in 1 row (96)" in run("verify", str(path))[1]
