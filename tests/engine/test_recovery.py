"""What an engine goes on from where its journal can't be read."""

from __future__ import annotations

from pathlib import Path

import pytest

from voltrade.engine.recovery import identity_of, recovered
from voltrade.errors import JournalError
from voltrade.journal import Journal
from voltrade.journal import identity_of as journal_identity

DAMAGE = {
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


def test_a_journal_of_another_process_is_no_damaged_one(tmp_path: Path) -> None:
    """Nothing is set aside that somebody may still write."""
    path = a_journal(tmp_path)
    with Journal.open(path), pytest.raises(JournalError, match="must begin with a Start row"):
        recovered(tmp_path, Journal, False, lambda: None)
    path.chmod(0o644)
    with pytest.raises(JournalError, match="mode must be 0600"):
        identity_of(tmp_path, {"begun": True, "id": "its id"}, lambda: "another")
    assert path.exists()


def test_a_run_that_has_not_begun_is_new_and_keeps_its_id(tmp_path: Path) -> None:
    assert identity_of(tmp_path, {}, lambda: "made") == ("made", True)
    assert identity_of(tmp_path, {"id": "known"}, lambda: "made") == ("known", True)
    a_journal(tmp_path)
    assert identity_of(tmp_path, {"begun": True}, lambda: "made") == ("its id", True)
