"""Keeps the trades of large files beside the store, so that a file is parsed only once."""

from __future__ import annotations

import json
from contextlib import suppress
from pathlib import Path

import pyarrow as pa

from voltrade.data.kinds import TRADES
from voltrade.data.store_files import METADATA_KEY, StoreFiles, columns_of, encode_rows
from voltrade.errors import DataError
from voltrade.model import Trades

CACHE = ".cache"
"""Folder in the store."""

UNUSED_DAYS = 30
"""A file that wasn't read for so many days is deleted."""


class TapeCache:
    """A cache of trades and short texts by key; without effect where the store isn't a folder that can be written."""

    def __init__(self, files: StoreFiles) -> None:
        self._files = files
        self._folder = files.folder and files.folder / CACHE

    def trades(self, key: str) -> tuple[Trades, str] | None:
        """Return the trades and the note of a key; None where there are none, or the file is damaged."""
        name = f"{key}.parquet"
        if self._folder is None or not (self._folder / name).is_file():
            return None
        try:
            with self._files.opened(f"{CACHE}/{name}") as (file, _):
                symbol, note = json.loads(file.metadata.metadata[METADATA_KEY])
                columns = columns_of(file, TRADES.columns)
        except (DataError, FileNotFoundError):
            return None
        (self._folder / name).touch()  # see `_delete_unused`
        return Trades(symbol, *columns), note

    def add_trades(self, key: str, trades: Trades, note: str) -> None:
        """Keep trades and a note under a key."""
        self._put(f"{key}.parquet", encode_rows(TRADES, trades.columns, json.dumps([trades.symbol, note])))

    def text(self, key: str) -> str | None:
        """Return the text of a key; None where there is none."""
        try:
            return (self._folder / f"{key}.txt").read_text() if self._folder else None
        except OSError:
            return None

    def add_text(self, key: str, text: str) -> None:
        """Keep a short text under a key."""
        self._put(f"{key}.txt", pa.py_buffer(text.encode()))

    def _put(self, name: str, content: pa.Buffer) -> None:
        if self._folder is None:
            return
        with suppress(OSError):
            self._files.put(f"{CACHE}/{name}", content)
            _delete_unused(self._folder)


def _delete_unused(folder: Path) -> None:
    """Delete files that weren't read for `UNUSED_DAYS`."""
    newest = max(path.stat().st_mtime for path in folder.iterdir())
    for path in folder.iterdir():
        if path.stat().st_mtime < newest - UNUSED_DAYS * 86_400:
            path.unlink(missing_ok=True)
