"""How a journal stores the bodies of its rows: each by its difference from the first row of its kind.

Rows of a kind differ in few places: of a bar's 660 bytes most are the names of its fields. So each body is deflated
with the kind's first one as dictionary. That one is kept in a table of its own, so that any row can be read alone. The
hash of a row is that of its plain body.
"""

from __future__ import annotations

import sqlite3
import zlib
from typing import Any

from voltrade.errors import DamagedJournal
from voltrade.journal.market import MARKET

TABLE = "CREATE TABLE sample (kind TEXT PRIMARY KEY, body BLOB NOT NULL) STRICT, WITHOUT ROWID"
TRIGGERS = (
    "CREATE TRIGGER sample_insert BEFORE INSERT ON sample WHEN EXISTS (SELECT 1 FROM sample WHERE kind = NEW.kind) "
    "BEGIN SELECT RAISE(ABORT, 'sample: a kind has one'); END",
    "CREATE TRIGGER sample_update BEFORE UPDATE ON sample BEGIN SELECT RAISE(ABORT, 'sample: is never changed'); END",
    "CREATE TRIGGER sample_delete BEFORE DELETE ON sample BEGIN SELECT RAISE(ABORT, 'sample: is never deleted'); END",
)

PLAIN, DEFLATED = b"\0", b"\1"
"""First byte of a stored body: as it is, or by its difference from the sample of its kind."""

_LEAST_BYTES = 60
"""A shorter body is stored as it is."""
_COMPRESSED = ("Trades", MARKET)
_RAW = -15
_NO_SAMPLE = b""


class Bodies:
    """The samples of a journal: a writer adds one for each kind, a reader finds those that a writer has added.

    Attributes:
        added: samples that are not on disk yet.
    """

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection
        self._samples: dict[str, bytes] = {}
        self._deflaters: dict[str, Any] = {}
        self.added: list[tuple[str, bytes]] = []

    def load(self) -> None:
        """Read the samples that are on disk."""
        for kind, body in self._connection.execute("SELECT CAST(kind AS BLOB), body FROM sample"):
            self._samples[kind.decode(errors="replace")] = body

    def stored(self, kind: str, body: bytes) -> bytes:
        """Return a row's body as it is stored; the first of its kind becomes the kind's sample."""
        if len(body) < _LEAST_BYTES or kind in _COMPRESSED:
            return PLAIN + body
        if kind not in self._samples:
            self._samples[kind] = body
            self.added.append((kind, body))
        if kind not in self._deflaters:
            self._deflaters[kind] = zlib.compressobj(9, zlib.DEFLATED, _RAW, zdict=self._samples[kind])
        deflate = self._deflaters[kind].copy()
        deflated: bytes = DEFLATED + deflate.compress(body) + deflate.flush()
        return deflated if len(deflated) <= len(body) else PLAIN + body

    def plain(self, kind: bytes, stored: bytes) -> bytes:
        """Return the body of a row that is stored.

        Raises:
            DamagedJournal: the bytes aren't what `stored` returned.
        """
        if stored[:1] == PLAIN:
            return stored[1:]
        name = kind.decode(errors="replace")
        if name not in self._samples:
            self.load()
        inflate = zlib.decompressobj(_RAW, zdict=self._samples.get(name, _NO_SAMPLE))
        try:
            body = inflate.decompress(stored[1:])
        except zlib.error as error:
            raise DamagedJournal(f"{name}: the bytes can't be read: {error}") from None
        if stored[:1] != DEFLATED or not inflate.eof or inflate.unused_data:
            raise DamagedJournal(f"{name}: the bytes can't be read: they don't end as they were stored")
        return body
