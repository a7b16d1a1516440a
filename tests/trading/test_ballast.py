"""The space that is kept free for orders that protect is there, is given back once, and is taken again with room."""

from __future__ import annotations

import os
from pathlib import Path
from types import SimpleNamespace

import pytest

from voltrade.journal.ballast import BALLAST, SIZE, Ballast


def test_it_takes_the_space_once_and_gives_it_back_once(tmp_path: Path) -> None:
    ballast, file = Ballast(tmp_path), tmp_path / BALLAST
    assert ballast.lay()
    assert file.stat().st_size == SIZE
    written = file.stat().st_mtime_ns
    assert ballast.lay()
    assert Ballast(tmp_path).lay(), "the next engine's is this one"
    assert file.stat().st_mtime_ns == written
    assert (ballast.free(), file.exists(), ballast.free()) == (True, False, False)
    assert ballast.lay()
    ballast.remove()
    assert not file.exists()


def test_a_disk_without_room_keeps_nothing_of_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / BALLAST).write_bytes(b"a part of it, by an engine that was killed")

    def full(size: int) -> bytes:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "urandom", full)
        assert not Ballast(tmp_path).lay()
    assert not (tmp_path / BALLAST).exists()
    assert Ballast(tmp_path).lay()


@pytest.mark.parametrize(("left", "is_freed"), [(4_095, True), (4_096, False)])
def test_an_engine_that_starts_on_a_full_disk_has_room_for_its_journal(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, left: int, is_freed: bool
) -> None:
    Ballast(tmp_path).lay()
    monkeypatch.setattr(os, "statvfs", lambda path: SimpleNamespace(f_bavail=left, f_frsize=1_024))
    Ballast(tmp_path).make_room()
    assert (tmp_path / BALLAST).exists() is not is_freed


def test_without_a_folder_nothing_is_kept_and_nothing_is_lacking() -> None:
    assert (Ballast().lay(), Ballast().free()) == (True, False)
