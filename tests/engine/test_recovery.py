"""What an engine goes on from where its journal can't be read."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import cast

import pytest
from support.builders import an_instrument

from voltrade.config import Config
from voltrade.engine import recovery
from voltrade.engine.recovery import LOST_BEFORE, began_at, begun_by, identity_of, instrument_of, recovered
from voltrade.errors import JournalError
from voltrade.journal import APPLICATION_ID, Journal
from voltrade.journal import identity_of as journal_identity
from voltrade.model import Operator
from voltrade.runs.replay import Replay, start_row


def leave_its_begin(path: Path) -> None:
    """The disk had written none of the log that it said it had: what remains says that it is a journal, and no more."""
    path.write_bytes(b"")
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")


DAMAGE = {
    "without its log": leave_its_begin,
    "emptied": lambda path: path.write_bytes(b""),
    "cut short": lambda path: path.write_bytes(path.read_bytes()[:5_000]),
    "overwritten": lambda path: path.write_bytes(b"\0" * 8_192),
    "gone": lambda path: path.unlink(),
}


def a_journal(folder: Path) -> Path:
    with Journal.create(folder / "journal.db", "its id") as journal:
        for number in range(100):
            journal.append("Bar", number, {"number": number, "text": "x" * 100})
    return folder / "journal.db"


def test_a_run_began_when_its_first_journal_says(tmp_path: Path) -> None:
    path, record = tmp_path / "journal.db", {"began": 7}
    assert (began_at(path, record), began_at(path, {}), begun_by(path)) == (7, 0, None)
    with Journal.create(path, "its id") as journal:
        journal.append("Start", 1_234, {"parameters": {"confirmation": "the first"}})
        journal.append("Start", 2_345, {"parameters": {"confirmation": "another"}})
    assert (began_at(path, record), begun_by(path)) == (1_234, "the first")
    path.unlink()
    with Journal.create(path, "its id") as journal:  # in place of one that was lost
        journal.append("Start", 5_678, {LOST_BEFORE: "emptied"})
    assert (began_at(path, record), begun_by(path)) == (7, None)


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_journal_that_can_not_be_read_is_kept_beside_a_new_one(tmp_path: Path, damage: str) -> None:
    """Fault case E5: the run keeps its id, is not new, and never begins with the ids of its orders anew."""
    path = a_journal(tmp_path)
    DAMAGE[damage](path)
    found = recovered(tmp_path, Journal, False, lambda: None)
    assert isinstance(found, str)
    assert str(path) in found
    assert not path.exists()
    assert (tmp_path / "damaged-1-journal.db").exists() is (damage != "gone")
    assert identity_of(tmp_path, {"begun": True, "id": "its id"}, lambda: "another") == ("its id", False)
    with Journal.create(path, "its id"):
        pass
    assert journal_identity(path) == "its id"


def names_of(folder: Path) -> set[str]:
    return {file.name for file in folder.iterdir() if not file.name.endswith(".lock")}


def test_a_log_follows_its_journal_after_a_loss_of_power_in_between(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The machine dies after each of the names; whatever was renamed, database and log have one number."""

    class PowerLoss(Exception):
        pass

    def dies(folder: Path) -> None:
        raise PowerLoss

    log = tmp_path / "journal.db-wal"
    for number in (1, 2):
        for name in ("journal.db", log.name, "journal.db-shm"):
            (tmp_path / name).write_text(f"of journal {number}")
        with monkeypatch.context() as patch:
            patch.setattr(recovery, "sync_folder", dies)
            for left in (True, False):  # after the database, and after its log
                with pytest.raises(PowerLoss):
                    recovery._set_aside(tmp_path)
                assert log.exists() is left
        recovery._set_aside(tmp_path)
        kept = {f"damaged-{each}-journal.db{part}" for each in range(1, number + 1) for part in ("", "-wal")}
        assert names_of(tmp_path) == kept
        assert (tmp_path / f"damaged-{number}-journal.db-wal").read_text() == f"of journal {number}"


def test_a_log_without_a_journal_takes_no_number_of_another(tmp_path: Path) -> None:
    (tmp_path / "damaged-1-journal.db").touch()
    (tmp_path / "damaged-1-journal.db-wal").touch()
    (tmp_path / "journal.db-wal").touch()
    assert isinstance(recovered(tmp_path, Journal, False, lambda: None), str)
    assert "damaged-2-journal.db-wal" in names_of(tmp_path)


def test_a_journal_of_another_process_is_no_damaged_one(tmp_path: Path) -> None:
    """Nothing is set aside that somebody may still write."""
    path = a_journal(tmp_path)
    with Journal.open(path), pytest.raises(JournalError, match="another one has it open"):
        recovered(tmp_path, Journal, False, lambda: None)
    path.chmod(0o644)
    with pytest.raises(JournalError, match="mode must be 0600"):
        identity_of(tmp_path, {"begun": True, "id": "its id"}, lambda: "another")
    assert path.exists()


ROT: dict[str, Callable[[bytes], tuple[bytes, bytes]]] = {
    "a row that can't be decoded": lambda stored: (stored, b"\xff" + stored[1:]),
    "a row with other bytes": lambda stored: (stored, stored[:-3] + bytes([stored[-3] ^ 1]) + stored[-2:]),
    "a row of another kind": lambda stored: (b"Operator" + stored, b"Oper\xfftor" + stored),
    "a kind of the samples": lambda stored: (b"Operator{", b"Oper\xfftor{"),
    "a sample with another value": lambda stored: (b'"acknowledge"', b'"ecknowledge"'),
    "a sample that isn't JSON": lambda stored: (b'"acknowledge"', b'"acknowled\xff\xfe"'),
    "the first row": lambda stored: (b'"epoch":', b'"ep\xff\xfeh":'),
    "the first row's instrument": lambda stored: (b'"instrument":', b'"instrumemt":'),
}
"""Which bytes of the file become which others, by the stored body of the third command."""


def stored_body(path: Path, row: int) -> bytes:
    with closing(sqlite3.connect(path)) as connection:
        ((body,),) = connection.execute("SELECT body FROM journal ORDER BY seq LIMIT 1 OFFSET ?", (row,)).fetchall()
    return bytes(body)


def a_session(folder: Path, acknowledged: int) -> Path:
    """A journal that can be recovered from."""
    with Journal.create(folder / "journal.db", "its id") as journal:
        journal.append("Start", 0, start_row(Config(), an_instrument(), "e7"))
        for number in range(acknowledged):
            journal.append_fact(Operator(number, "acknowledge", "middle" if number == 2 else "test"), number)
    return folder / "journal.db"


@pytest.mark.parametrize("as_far_as_possible", [False, True], ids=["engine", "caretaker"])
@pytest.mark.parametrize("rows", [5, 1_100], ids=["near the end", "long before the end"])
@pytest.mark.parametrize("part", ROT)
def test_a_row_of_other_bytes_is_a_damaged_journal(
    tmp_path: Path, part: str, rows: int, as_far_as_possible: bool
) -> None:
    """Fault case E5: neither the end of the run nor a reason to crash, whichever bytes they are."""
    path = a_session(tmp_path, rows)
    replayed, opened = cast(tuple[Replay, Journal], recovered(tmp_path, Journal, as_far_as_possible, lambda: None))
    opened.close()
    assert (replayed.events, replayed.differences) == (rows, 0)
    old, new = ROT[part](stored_body(path, 3))
    whole = path.read_bytes()
    assert len(old) == len(new)
    assert old in whole
    path.write_bytes(whole.replace(old, new))
    instrument_of(path)
    found = recovered(tmp_path, Journal, as_far_as_possible, lambda: None)
    assert isinstance(found, str)
    assert (tmp_path / "damaged-1-journal.db").exists()


def test_a_replay_that_differs_from_whole_rows_is_no_damage(tmp_path: Path) -> None:
    path = a_session(tmp_path, 2)
    with Journal.open(path) as journal:
        journal.append("Bar", 3, {"number": 3})
    with pytest.raises(JournalError, match="can't be resumed from"):
        recovered(tmp_path, Journal, False, lambda: None)
    with Journal.open(path):  # which the one that could not be gone on with has let go
        pass


def test_a_run_that_has_not_begun_is_new_and_keeps_its_id(tmp_path: Path) -> None:
    assert identity_of(tmp_path, {}, lambda: "made") == ("made", True)
    assert identity_of(tmp_path, {"id": "known"}, lambda: "made") == ("known", True)
    a_journal(tmp_path)
    assert identity_of(tmp_path, {"begun": True}, lambda: "made") == ("its id", True)
