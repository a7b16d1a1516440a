"""The journal keeps facts exactly, in order, through the death of its process, and shows every later change."""

from __future__ import annotations

import fcntl
import hashlib
import math
import os
import random
import shutil
import signal
import sqlite3
import stat
import struct
import subprocess
import sys
import typing
from contextlib import closing
from dataclasses import replace
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from voltrade.errors import JournalError
from voltrade.journal import SCHEMA_VERSION, Journal, last, read, verify
from voltrade.journal.lock import is_open_for_writing
from voltrade.journal.pending_market_row import PendingMarketRow
from voltrade.journal.rows import as_stored, decode, encode, encode_json
from voltrade.model import (
    NEVER,
    AccountUpdate,
    AlgoUpdate,
    BreakerChange,
    Event,
    MarkPrice,
    Operator,
    OrderIntent,
    OrderRequest,
    OrderType,
    OrderUpdate,
    Outcome,
    Output,
    PositionReport,
    Purpose,
    Reply,
    Side,
    Snapshot,
    Timer,
    Trades,
)

NOON = 1_700_000_000_000


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "run" / "journal.sqlite"


def filled(path: Path, rows: int = 50) -> str:
    """Write a journal of so many timers and return its head."""
    with Journal.create(path) as journal:
        for number in range(rows):
            journal.append_fact(Timer(NOON + number), NOON + number)
    return journal.head


def edit(path: Path, *statements: str) -> None:
    """Change the file as an attacker with SQLite would, past the triggers, and put the triggers back."""
    with sqlite3.connect(path, isolation_level=None) as connection:
        triggers = connection.execute("SELECT name, sql FROM sqlite_master WHERE type = 'trigger' ORDER BY rowid")
        kept = triggers.fetchall()
        for name, _ in kept:
            connection.execute(f"DROP TRIGGER {name}")
        for statement in statements:
            connection.execute(statement)
        for _, sql in kept:
            connection.execute(sql)
    connection.close()


# --- facts as bytes ---------------------------------------------------------------------------------------------------

order = OrderUpdate(NOON, "BTCUSDT", "v1-e", 7, Side.BUY, OrderType.MARKET, "FILLED", "TRADE", 5, 5, fee=-3, trade_id=9)
stop = AlgoUpdate(NOON, "BTCUSDT", "v1-s", 8, Side.SELL, OrderType.STOP_MARKET, "NEW", 5, 400_000, reason='"\\ü\n')
position = PositionReport("BTCUSDT", -5, "43210.50", leverage=5, margin_type="isolated")
nested = (
    Reply(NOON, "submit", "BTCUSDT", "v1-e", False, Outcome.UNKNOWN, -1007, "Timeout", order),
    Snapshot(
        NOON, "BTCUSDT", 10**12, 10**12, 50_000, 20_000, 5, "isolated", False, position, (order,), (stop,), (order,)
    ),
    AccountUpdate(NOON, "FUNDING_FEE", -1, -2, "BTCUSDT", (position, position)),
    OrderIntent(
        NOON, OrderRequest("BTCUSDT", "v1-e", Side.SELL, OrderType.MARKET, 5), Purpose.ENTRY, 1, "signal", bar_number=3
    ),
    BreakerChange(NOON, "DRAWDOWN", "HALTED", "flatten", 5, 4, NEVER),
)


@pytest.mark.parametrize("fact", nested, ids=lambda fact: type(fact).__name__)
def test_a_fact_comes_back_equal_with_its_types(fact):
    kind, body = encode(fact)
    back = decode(kind, body)
    assert back == fact
    assert repr(back) == repr(fact)  # enums and tuples too, not only what is equal to them
    assert encode(back) == (kind, body)


FACTS = [fact for fact in typing.get_args(Event | Output) if fact is not Trades]


@pytest.mark.parametrize("kind", FACTS, ids=lambda kind: kind.__name__)
@given(data=st.data())
@settings(max_examples=15, deadline=None)
def test_every_fact_of_the_model_comes_back_equal(kind, data):
    fact = data.draw(st.from_type(kind).filter(_has_text_that_utf8_takes))
    assert decode(*encode(fact)) == fact


def _has_text_that_utf8_takes(fact: object) -> bool:
    try:
        repr(fact).encode()
    except UnicodeEncodeError:
        return False
    return "\\ud" not in repr(fact)


@pytest.mark.parametrize(
    ("time", "side"),
    [(1.5, Side.BUY), ("1", Side.BUY), (None, Side.BUY), (1, 1)],
)
def test_a_fact_with_a_field_of_another_type_is_refused(time, side):
    wrong = OrderUpdate(time, "BTCUSDT", "v1-e", 7, side, OrderType.MARKET, "NEW", "NEW", 5, 0)
    with pytest.raises(JournalError, match="OrderUpdate"):
        encode(wrong)


@pytest.mark.parametrize("body", [b"", b"{}", b'{"time":"1"}', b'{"time":1.5}', b"\xff"])
def test_bytes_that_are_no_fact_are_refused(body):
    with pytest.raises(JournalError, match="Timer"):
        decode("Timer", body)


@given(
    st.dictionaries(
        st.text(st.characters(exclude_categories=["Cs"])),
        st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.lists(st.floats(allow_nan=False)),
    )
)
def test_a_dict_comes_back_equal_with_exact_floats(body):
    assert decode("Bar", encode_json(body)) == body
    assert encode_json(dict(reversed(body.items()))) == encode_json(body)


def test_a_dict_takes_nan_and_numpy_numbers_and_refuses_what_json_has_not():
    body = encode_json({"rsi": math.nan, "atr": np.float64(0.1), "n": np.int64(3), "passed": np.bool_(True)})
    assert body == b'{"atr":0.1,"n":3,"passed":true,"rsi":NaN}'
    assert math.isnan(decode("Bar", body)["rsi"])
    with pytest.raises(JournalError, match="Decimal"):
        encode_json({"a": Decimal(1)})


INT64 = st.integers(-(2**63), 2**63 - 1)


def equal(a: Trades, b: Trades) -> bool:
    columns = ("id", "price", "quantity", "time", "buyer_is_maker")
    same = all(np.array_equal(getattr(a, name), getattr(b, name)) for name in columns)
    return same and a.symbol == b.symbol and all(getattr(a, n).dtype == getattr(b, n).dtype for n in columns)


@given(st.text(st.characters(exclude_categories=["Cs"]), max_size=20), st.lists(st.tuples(*[INT64] * 4, st.booleans())))
def test_trades_come_back_exactly_whatever_the_numbers(symbol, rows):
    trades = Trades.from_rows(symbol, rows)
    kind, body = encode(trades)
    assert kind == "Trades"
    assert equal(decode(kind, body), trades)
    assert encode(decode(kind, body)) == (kind, body)


def walk(count: int) -> Trades:
    """Trades like real ones: ids in order, prices that wander, times that stand still or move on."""
    rng = np.random.default_rng(1)
    return Trades(
        "BTCUSDT",
        np.arange(10**9, 10**9 + count),
        430_000 + np.cumsum(rng.integers(-3, 4, count)),
        rng.geometric(0.02, count).astype(np.int64),
        NOON + np.cumsum(rng.integers(0, 60, count)),
        rng.random(count) < 0.5,
    )


def test_trades_are_stored_in_a_sixth_of_their_columns():
    trades = walk(1_000)
    assert len(encode(trades)[1]) < 1_000 * 33 / 6
    assert len(encode(trades[:1])[1]) < 60


@pytest.mark.parametrize(
    "body", [b"", b"\x02\x00\x01\x00", b"\x02\x00\x01\x00x", b"\x01\x00\x00\x00", b"\x02" + b"\xff" * 12, b"{}"]
)
def test_bytes_that_are_no_trades_are_refused(body):
    with pytest.raises(JournalError, match="Trades"):
        decode("Trades", body)


MARKS = st.builds(MarkPrice, st.just("BTCUSDT"), *[INT64] * 4, st.booleans())


@given(st.lists(st.one_of(MARKS, st.lists(st.tuples(*[INT64] * 4, st.booleans()), max_size=5)), max_size=12))
def test_market_data_comes_back_in_its_order_whatever_the_numbers(parts):
    """Blocks of trades between two mark prices come back as one; without mark prices the row is one of trades."""
    waiting, wanted, rows = PendingMarketRow(), [], []
    for part in parts:
        fact = part if isinstance(part, MarkPrice) else Trades.from_rows("BTCUSDT", part)
        waiting.add(fact)
        wanted += [part] if isinstance(part, MarkPrice) else part
    assert waiting.items == len(wanted)
    if not wanted:
        return
    kind, time, body = waiting.take_row(5)
    assert (time, waiting.items) == (5, 0)
    found = decode(kind, body)
    for fact in found if isinstance(found, tuple) else (found,):
        rows += [fact] if isinstance(fact, MarkPrice) else fact.rows()
    assert rows == wanted
    assert (kind == "Trades") == (not any(isinstance(part, MarkPrice) for part in parts))


def test_a_minute_of_market_data_takes_a_tenth_of_rows_of_their_own():
    """Thirty trades and as many mark prices in half a minute, as of a quiet market."""
    waiting, alone = PendingMarketRow(), 0
    for number, row in enumerate(walk(30).rows()):
        mark = MarkPrice("BTCUSDT", NOON + 1_000 * number, 4_300_000_000_000 + 7**number % 10**8, 10_000, NOON)
        for fact in (Trades.from_rows("BTCUSDT", [row]), mark):
            waiting.add(fact)
            alone += len(encode(fact)[1]) + ROW_BYTES
    assert len(waiting.take_row(0)[2]) + ROW_BYTES < alone / 10


ROW_BYTES = 60
"""What the database takes for a row besides its body: position, time, kind, hash."""


@pytest.mark.parametrize("body", [b"", b"\x02" + bytes(3), b"\x02\x00\x00\x01x\x9c", b"\x01" + bytes(8), b"{}"])
def test_bytes_that_are_no_market_data_are_refused(body):
    with pytest.raises(JournalError, match="Market"):
        decode("Market", body)


# --- rows and their chain ---------------------------------------------------------------------------------------------


def test_rows_count_from_one_and_each_hash_seals_all_before(path):
    with Journal.create(path, "account 1") as journal:
        assert (journal.seq, journal.append("Start", 5, {"b": 1, "a": 2}), journal.append("End", 6, b"x")) == (0, 1, 2)
    first, second = read(path)
    genesis = hashlib.sha256(b"voltrade journal 1\0account 1").digest()
    one = hashlib.sha256(genesis + struct.pack(">qqH", 1, 5, 5) + b"Start" + b'{"a":2,"b":1}').digest()
    two = hashlib.sha256(one + struct.pack(">qqH", 2, 6, 3) + b"End" + b"x").digest()
    assert (first.seq, first.time, first.kind, first.fact, first.hash) == (1, 5, "Start", {"a": 2, "b": 1}, one)
    assert (second.seq, second.hash, journal.head) == (2, two, two.hex())
    assert verify(path) == verify(path, two.hex())
    assert (verify(path).ok, verify(path).seq, verify(path).head) == (True, 2, two.hex())


def test_the_same_facts_give_the_same_head(tmp_path):
    facts = [walk(300), Timer(NOON), *nested]
    heads = set()
    for name in ("a", "b"):
        with Journal.create(tmp_path / name) as journal:
            for fact in facts:
                journal.append_fact(fact, NOON)
        heads.add(journal.head)
    assert len(heads) == 1


def test_a_dict_can_not_pass_for_a_fact(path):
    with Journal.create(path) as journal, pytest.raises(JournalError, match="Timer is a fact"):
        journal.append("Timer", NOON, {"time": NOON})


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE journal SET body = x'00' WHERE seq = 3",
        "DELETE FROM journal WHERE seq = 50",
        "INSERT OR REPLACE INTO journal VALUES (50, 1, 'Timer', x'00', x'00')",
        "INSERT INTO journal VALUES (52, 1, 'Timer', x'00', x'00')",
        "INSERT INTO journal VALUES (0, 1, 'Timer', x'00', x'00')",
        "UPDATE header SET identity = 'other'",
        "DELETE FROM header",
    ],
)
def test_rows_can_only_be_added_at_the_end(path, statement):
    head = filled(path)
    connection = sqlite3.connect(path)
    with pytest.raises(sqlite3.IntegrityError, match=r"next row|never"):
        connection.execute(statement)
    connection.close()
    assert verify(path, head).ok


@pytest.mark.parametrize(
    ("statement", "bad_seq", "rule"),
    [
        ("UPDATE journal SET body = x'00' WHERE seq = 7", 7, "hash"),
        ("UPDATE journal SET time = time + 1 WHERE seq = 7", 7, "hash"),
        ("UPDATE journal SET kind = 'timer' WHERE seq = 7", 7, "hash"),
        ("UPDATE journal SET kind = CAST(x'ff' AS TEXT) WHERE seq = 7", 7, "hash"),
        ("UPDATE journal SET hash = x'00' WHERE seq = 7", 7, "hash"),
        ("UPDATE journal SET hash = (SELECT hash FROM journal WHERE seq = 8) WHERE seq = 7", 7, "hash"),
        ("DELETE FROM journal WHERE seq = 7", 7, "seq must be 7, was 8"),
        ("DELETE FROM journal WHERE seq = 1", 1, "seq must be 1, was 2"),
        ("UPDATE journal SET seq = -seq WHERE seq = 7", 1, "seq must count from 1"),
        ("INSERT INTO journal VALUES (51, 1, 'Timer', x'00', x'00')", 51, "hash"),
        ("DELETE FROM journal WHERE seq > 40", 41, "head"),
        ("UPDATE header SET identity = 'other'", 1, "hash"),
        ("DELETE FROM header", 0, "tables and triggers"),
        (f"PRAGMA user_version = {SCHEMA_VERSION + 1}", 0, "version"),
        ("PRAGMA application_id = 1", 0, "application id"),
        ("CREATE TRIGGER mine AFTER INSERT ON journal BEGIN SELECT 1; END", 0, "tables and triggers"),
    ],
)
def test_verify_names_the_first_row_that_was_tampered_with(path, statement, bad_seq, rule):
    head = filled(path)
    edit(path, statement)
    result = verify(path, head)
    assert (result.ok, result.bad_seq) == (False, bad_seq)
    assert rule in result.rule


def small_journal(path: Path) -> bytes:
    """Write 20 rows of trades and orders, each small enough to lie in one piece, and return the file's bytes."""
    with Journal.create(path) as journal:
        for number in range(20):
            journal.append_fact(walk(50)[number : number + 10] if number % 3 else order, NOON + number)
    return path.read_bytes()


def test_any_flipped_byte_of_any_row_is_found(path):
    content = small_journal(path)
    with closing(sqlite3.connect(path)) as connection:
        rows = connection.execute("SELECT seq, time, kind, body, hash FROM journal").fetchall()
    places = []  # of every byte of a row's time, kind, body and hash in the file
    for seq, time, kind, body, sealed in rows:
        cells = struct.pack(">q", time)[2:] + kind.encode() + body + sealed  # SQLite stores 6 of 8 bytes
        start = content.index(cells)
        places += [(start + offset, seq) for offset in range(len(cells))]
    before = list(read(path))
    rng = random.Random(4)
    for _ in range(1_000):
        place, seq = rng.choice(places)
        damaged = bytearray(content)
        damaged[place] ^= 1 << rng.randrange(8)
        path.write_bytes(damaged)
        if verify(path).bad_seq != seq:  # bits after the end of what is deflated
            assert verify(path).ok
            assert list(read(path)) == before
    path.write_bytes(content)
    assert verify(path).ok


def test_any_flipped_byte_of_the_file_is_found_or_changes_no_row(path):
    content = small_journal(path)
    rows = list(read(path))
    rng = random.Random(5)
    found = 0
    for _ in range(500):
        damaged = bytearray(content)
        damaged[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
        path.write_bytes(damaged)
        if verify(path).ok:  # a byte that SQLite doesn't use
            assert list(read(path)) == rows
        else:
            found += 1
    assert found > 100


# --- what a row takes ---------------------------------------------------------------------------------------------


def a_bar(number: int) -> dict[str, Any]:
    rng = random.Random(number)
    levels = {name: 60_000 + rng.randrange(500) for name in ("open", "high", "low", "close")}
    values = {f"an_indicator_{n}": rng.random() for n in range(8)}
    return {"index": number, **levels, "close_reason": 1, "decision": {"signal": 0, "tainted": False, **values}}


def test_rows_of_one_kind_are_stored_by_their_differences(path):
    with Journal.create(path) as journal:
        for number in range(100):
            journal.append("Bar", NOON + number, a_bar(number))
    with closing(sqlite3.connect(path)) as connection:
        sizes = [size for (size,) in connection.execute("SELECT length(body) FROM journal ORDER BY seq")]
    assert max(sizes) < 250 < 350 < len(encode_json(a_bar(1)))
    assert [row.fact for row in read(path)] == [a_bar(number) for number in range(100)]
    assert [row.fact for row in read(path, after=99)] == [a_bar(99)]  # any row is read without those before
    assert last(path, "Bar").fact == a_bar(99)


def test_a_journal_that_is_gone_on_with_keeps_its_samples(path):
    for begin in (0, 10):
        with Journal.create(path) if begin == 0 else Journal.open(path) as journal:
            for number in range(begin, begin + 10):
                journal.append("Bar", NOON, a_bar(number))
                journal.append_fact(order, NOON)
    with closing(sqlite3.connect(path)) as connection:
        assert connection.execute("SELECT kind FROM sample ORDER BY kind").fetchall() == [
            ("Bar",),
            (type(order).__name__,),
        ]
    assert [row.fact for row in read(path, kind="Bar")] == [a_bar(number) for number in range(20)]
    assert verify(path).ok


def test_a_sample_that_was_altered_is_found_at_the_first_row_that_depends_on_it(path):
    with Journal.create(path) as journal:
        for number in range(10):
            journal.append("Bar", NOON, a_bar(number))
        head = journal.head
    with closing(sqlite3.connect(path)) as connection, pytest.raises(sqlite3.IntegrityError, match="sample: is never"):
        connection.execute("UPDATE sample SET body = x'00'")
    edit(path, "UPDATE sample SET body = CAST(replace(CAST(body AS TEXT), 'signal', 'sjgnal') AS BLOB)")
    assert verify(path, head).bad_seq == 1
    edit(path, "UPDATE sample SET body = x'00'")
    result = verify(path, head)
    assert result.bad_seq == 1
    assert "hash" in result.rule
    with pytest.raises(JournalError, match="Bar: the bytes can't be read"):
        list(read(path))


def test_a_row_whose_commit_failed_is_stored_with_its_sample_later(path):
    journal = Journal.create(path)
    journal._connection.execute("PRAGMA max_page_count = 1")
    journal.append("Bar", NOON, a_bar(0) | {"text": "x" * 100_000})
    with pytest.raises(JournalError, match="could not be stored"):
        journal.commit()
    journal._connection.execute("PRAGMA max_page_count = 100000")
    journal.append("Bar", NOON, a_bar(1))
    journal.close()
    assert [row.fact["index"] for row in read(path)] == [0, 1]


# --- one writer, many readers -----------------------------------------------------------------------------------------


def test_readers_follow_a_journal_that_is_being_written_and_see_what_is_committed(path):
    with Journal.create(path) as journal:
        journal.append_fact(Timer(1), 1)
        assert list(read(path)) == []
        journal.commit()
        journal.append_fact(Timer(2), 2)
        assert [row.fact for row in read(path)] == [Timer(1)]
        journal.commit()
        assert [row.seq for row in read(path, after=1)] == [2]
        assert verify(path, journal.head).ok
        slow = read(path)
        next(slow)
        for number in range(3, 1_203):
            journal.append_fact(Timer(number), number)
        journal.commit()
        assert sum(1 for _ in slow) >= 1  # a reader that lingers neither blocks nor breaks the writer
    assert [row.seq for row in read(path)] == list(range(1, 1_203))


def test_reading_changes_nothing(path):
    filled(path)
    before = path.read_bytes()
    list(read(path))
    verify(path)
    assert path.read_bytes() == before


def test_a_journal_is_resumed_at_its_head(path):
    head = filled(path, 1_500)  # more than the tail that is checked
    with Journal.open(path) as journal:
        assert (journal.seq, journal.head) == (1_500, head)
        assert journal.append_fact(Timer(1), 1) == Timer(1)
        assert journal.seq == 1_501
    assert verify(path, journal.head).seq == 1_501


def test_a_closed_journal_takes_nothing_more(path):
    journal = Journal.create(path)
    journal.append_fact(Timer(1), 1)
    journal.close()
    with pytest.raises(JournalError, match="closed"):
        journal.append_fact(Timer(2), 2)
    assert verify(path).seq == 1  # close committed what was there


def test_a_second_writer_is_refused_until_the_first_is_gone(path):
    with Journal.create(path), pytest.raises(JournalError, match="another one has it open"):
        Journal.open(path)
    Journal.open(path).close()


def test_asking_whether_a_journal_is_open_creates_nothing_and_refuses_no_writer(path, monkeypatch):
    """Whoever asks holds the lock for a moment; a writer that comes just then tries again."""
    path.parent.mkdir(mode=0o700, exist_ok=True)
    assert not is_open_for_writing(path)
    assert list(path.parent.iterdir()) == []
    with Journal.create(path):
        assert is_open_for_writing(path)
    assert not is_open_for_writing(path)
    asking = os.open(f"{path}.lock", os.O_RDONLY)
    fcntl.flock(asking, fcntl.LOCK_SH | fcntl.LOCK_NB)
    paused = []

    def pause(seconds):
        paused.append(seconds)
        os.close(asking)

    monkeypatch.setattr("voltrade.journal.lock.sleep", pause)
    Journal.open(path).close()
    assert len(paused) == 1


# --- what is refused --------------------------------------------------------------------------------------------------


def test_file_and_folder_are_closed_to_others(path):
    with Journal.create(path) as journal:
        journal.append_fact(Timer(1), 1)
        journal.commit()
        files = {file.name: stat.S_IMODE(file.stat().st_mode) for file in path.parent.iterdir()}
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    assert set(files) == {"journal.sqlite", "journal.sqlite-wal", "journal.sqlite-shm", "journal.sqlite.lock"}
    assert set(files.values()) == {0o600}


@pytest.mark.parametrize(("what", "mode"), [("file", 0o644), ("file", 0o660), ("folder", 0o755)])
def test_a_journal_open_to_others_is_refused(path, what, mode):
    filled(path)
    (path if what == "file" else path.parent).chmod(mode)
    with pytest.raises(JournalError, match=f"mode must be 0[67]00, was {mode:04o}"):
        Journal.open(path)


def test_a_journal_is_never_created_over_another_file(path):
    head = filled(path)
    with pytest.raises(JournalError, match="exists already"):
        Journal.create(path)
    assert verify(path, head).ok


def as_text(path: Path) -> None:
    path.write_text("this is no database, only some text that is long enough to be one\n" * 9)


def as_empty(path: Path) -> None:
    path.write_bytes(b"")


def as_other_database(path: Path) -> None:
    path.unlink()
    with sqlite3.connect(path) as connection:
        connection.execute("CREATE TABLE t (a)")
    connection.close()
    path.chmod(0o600)


def as_bad_header(path: Path) -> None:
    content = path.read_bytes()
    path.write_bytes(b"\0" * 100 + content[100:])


def as_cut(path: Path) -> None:
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])


def as_link(path: Path) -> None:
    path.rename(path.with_name("elsewhere"))
    path.symlink_to(path.with_name("elsewhere"))


def as_changed_row(path: Path) -> None:
    edit(path, "UPDATE journal SET time = 0 WHERE seq = 45")


def as_missing(path: Path) -> None:
    path.unlink()


@pytest.mark.parametrize(
    "damage",
    [as_text, as_empty, as_other_database, as_bad_header, as_cut, as_link, as_changed_row, as_missing],
    ids=lambda damage: damage.__name__,
)
def test_a_foreign_or_broken_file_is_refused_and_left_as_it_is(path, damage):
    filled(path)
    damage(path)
    before = path.read_bytes() if path.exists() else b""
    with pytest.raises(JournalError):
        Journal.open(path)
    assert (path.read_bytes() if path.exists() else b"") == before
    if damage is not as_link:
        assert not verify(path).ok


def test_the_journal_of_another_account_is_refused(path):
    Journal.create(path, "live:account 1").close()
    with pytest.raises(JournalError, match="'live:account 2', is that of 'live:account 1'"):
        Journal.open(path, "live:account 2")
    Journal.open(path, "live:account 1").close()
    Journal.open(path).close()


def write_on(journal: Journal) -> None:
    for number in range(10_000):
        journal.append("Start", number, b"x" * 1_000)
        journal.commit()


def test_what_can_not_be_stored_waits_and_is_stored_later(path):
    """Fault case F1: the disk is full for a while."""
    journal = Journal.create(path)
    journal.append_fact(Timer(1), 1)
    journal.commit()
    connection = journal._connection
    connection.execute("PRAGMA max_page_count = 12")
    with pytest.raises(JournalError, match="could not be stored: database or disk is full"):
        write_on(journal)
    stored, head = journal.committed
    assert verify(path, head).seq == stored > 1  # what was committed is whole
    for _ in range(3):
        journal.append_fact(Timer(1), 1)
        with pytest.raises(JournalError, match="could not be stored"):
            journal.commit()
    assert journal.seq == stored + 4
    connection.execute("PRAGMA max_page_count = 100000")
    journal.commit()
    assert verify(path, journal.head).seq == journal.seq == journal.committed[0]


def test_a_journal_that_is_closed_takes_nothing_more_and_says_what_is_lost(path):
    journal = Journal.create(path)
    journal._connection.execute("PRAGMA max_page_count = 4")
    journal.append("Start", 1, b"x" * 100_000)
    with pytest.raises(JournalError, match="could not be stored"):
        journal.close()
    with pytest.raises(JournalError, match="it is closed"):
        journal.append_fact(Timer(1), 1)
    journal.close()  # once is enough


# --- death ------------------------------------------------------------------------------------------------------------

WRITER = """
import os, signal, sys
from voltrade.journal import Journal
from voltrade.model import Timer
path, point, rows = sys.argv[1], sys.argv[2], int(sys.argv[3])
journal = Journal.open(path)
while True:
    for _ in range(rows):
        journal.append_fact(Timer(journal.seq), journal.seq)
    if point == "in transaction" and journal.seq > 3 * rows:
        os.kill(os.getpid(), signal.SIGKILL)
    journal.commit()
    print(journal.seq, journal.head, flush=True)
    if point == "after commit" and journal.seq > 3 * rows:
        os.kill(os.getpid(), signal.SIGKILL)
"""


def write_until_killed(path: Path, point: str, rows: int, lines: int = 0) -> tuple[int, str]:
    """Run a writer that is killed at a point, or from outside after so many commits; return its last known commit."""
    child = subprocess.Popen([sys.executable, "-c", WRITER, path, point, str(rows)], stdout=subprocess.PIPE, text=True)
    assert child.stdout is not None
    told = []
    if lines:
        told = [child.stdout.readline() for _ in range(lines)]
        child.send_signal(signal.SIGKILL)
    told += child.stdout.readlines()
    child.stdout.close()
    assert child.wait(timeout=20) == -signal.SIGKILL
    seq, head = [line for line in told if line.endswith("\n")][-1].split()
    return int(seq), head


@pytest.mark.parametrize(
    ("point", "rows", "lines"),
    [
        ("in transaction", 10, 0),
        ("after commit", 10, 0),
        ("anywhere", 1, 7),
        ("anywhere", 300, 3),
        ("anywhere", 3_000, 2),
    ],
)
def test_a_killed_writer_leaves_a_whole_chain_with_all_that_was_committed(path, point, rows, lines):
    Journal.create(path).close()
    known, head = write_until_killed(path, point, rows, lines)
    seen = list(read(path))  # before anything has written to the file again
    assert verify(path).ok
    assert len(seen) >= known
    assert len(seen) % rows == 0  # a transaction is there whole or not at all
    assert seen[known - 1].hash.hex() == head
    with Journal.open(path) as journal:  # the lock of the dead is free
        assert journal.seq == len(seen)
        journal.append_fact(Timer(1), 1)
    assert verify(path, journal.head).ok


def test_a_log_torn_by_power_loss_keeps_what_was_acknowledged(path, tmp_path):
    rng = random.Random(6)
    journal = Journal.create(path)
    assert journal._connection.execute("PRAGMA synchronous").fetchone() == (2,)  # FULL: synced at every commit
    for _ in range(20):
        journal.append_fact(Timer(journal.seq), journal.seq)
        journal.commit()
    acknowledged, log = journal.seq, path.with_name(path.name + "-wal")
    synced = len(log.read_bytes())
    for _ in range(5):
        journal.append_fact(Timer(journal.seq), journal.seq)
        journal.commit()
    whole = log.read_bytes()
    for image in range(60):
        copy = tmp_path / f"image{image}" / path.name
        copy.parent.mkdir(mode=0o700)
        shutil.copy2(path, copy)
        cut = rng.randint(synced, len(whole))
        copy.with_name(copy.name + "-wal").write_bytes(whole[:cut] + rng.randbytes(len(whole) - cut))
        with Journal.open(copy) as resumed:
            assert acknowledged <= resumed.seq <= journal.seq
        assert verify(copy).ok
    journal.close()


def test_an_operator_is_kept_word_for_word(path):
    said = Operator(NOON, "halt", "<b>'; DROP TABLE journal; --\x00</b>")
    with Journal.create(path) as journal:
        journal.append_fact(said, NOON)
    assert [row.fact for row in read(path)] == [said]


@pytest.mark.parametrize("text", ["M\udcfcller", "\ud800", "\udfff\ud800", "\\udcfc \udcfc"])
def test_a_text_that_no_file_can_hold_is_kept_as_its_escape(path, text):
    """Fault case F4: in a fact, deep in a fact, in a dict's names and values."""
    kept = text.encode(errors="backslashreplace").decode()
    said = Operator(NOON, "halt", text)
    deep = Reply(
        NOON, "submit", "BTCUSDT", text, False, Outcome.REFUSED, -1, text, replace(order, client_order_id=text)
    )
    listed = replace(nested[1], margin_type=text, orders=(replace(order, client_order_id=text),))
    with Journal.create(path, f"account {text}") as journal:
        for fact in (said, deep, listed):
            journal.append_fact(fact, NOON)
        journal.append("End", NOON, {"reason": text, text: [text, {"deep": text}], "bars": 1.5})
    operator, reply, snapshot, end = (row.fact for row in read(path))
    assert operator == as_stored(said) == Operator(NOON, "halt", kept)
    assert (reply.client_order_id, reply.text, reply.order.client_order_id) == (kept, kept, kept)
    assert reply == as_stored(deep)
    assert (snapshot.margin_type, snapshot.orders[0].client_order_id) == (kept, kept)
    assert type(snapshot.orders[0].side) is Side
    assert end == {"reason": kept, kept: [kept, {"deep": kept}], "bars": 1.5}
    assert verify(path).ok
    with Journal.open(path, f"account {text}") as journal:
        assert journal.seq == 4


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(0, 0x10FFFF) | st.integers(0xD800, 0xDFFF)).map(lambda codes: "".join(map(chr, codes))))
def test_no_text_is_refused(text):
    """Fault case F4: whatever characters it has, even such as are none."""
    fact = as_stored(Operator(NOON, "halt", text))
    assert decode(*encode(fact)) == fact
    assert encode(fact) == encode(Operator(NOON, "halt", text))
    decode("End", encode_json({"reason": text}))


@pytest.mark.parametrize("fact", nested, ids=lambda fact: type(fact).__name__)
def test_a_fact_whose_texts_can_be_stored_is_stored_itself(fact):
    assert as_stored(fact) is fact
