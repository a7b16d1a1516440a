"""Writes trades into the store while they arrive: parts during a day, one file when the day is over."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from datetime import date
from typing import Any

import numpy as np

from voltrade.data.kinds import day_of, start_of
from voltrade.data.store import Store
from voltrade.data.stored_day import Contradiction, Metadata, StoredDay
from voltrade.errors import DataError
from voltrade.model import DAY_MS, MINUTE_MS, Instrument, Trades


class Recorder:
    """Writes trades into the store while they arrive: parts during a day, one file when the day is over.

    A written part survives a kill of the process; trades of at most `flush_ms` that aren't written yet are lost to the
    store. A thread of the recorder writes the files, so that `record` returns at once.
    """

    def __init__(
        self,
        store: Store,
        instrument: Instrument,
        source: str = "live",
        *,
        begins: bool = False,
        after: StoredDay | None = None,
        flush_ms: int = MINUTE_MS,
        flush_rows: int = 100_000,
    ) -> None:
        """Make a recorder without trades.

        Args:
            source: written into the files' metadata.
            begins: whether the first recorded trade is the first of its day.
            after: the stored day after whose last trade recording goes on.
            flush_ms: a part is written when its trades span this time,
            flush_rows: or when it has this many trades.
        """
        self._store = store
        self._metadata = Metadata.of(instrument, source, begins=begins)
        self._symbol = instrument.symbol
        self._flush_ms, self._flush_rows = flush_ms, flush_rows
        self._pending: list[Trades] = []
        self._pending_rows = 0
        self._day = after.day if after else None
        self._last_id = after.last if after else -1
        self._writer = ThreadPoolExecutor(1, "recorder")
        self._written: list[Future[Any]] = []

    def record(self, trades: Trades) -> None:
        """Record trades that follow the last ones; those that were already recorded are ignored.

        Raises:
            DataError: an earlier write failed, for example because the disk is full.
        """
        self._check()
        new = trades[int(np.searchsorted(trades.id, self._last_id, side="right")) :]
        while len(new):
            day = day_of(int(new.time[0]))
            if day != self._day:
                self._begin_day(new, day)
            # A trade with an earlier time than the one before it belongs to the day of that one.
            end = int(np.searchsorted(np.maximum.accumulate(new.time), start_of(day) + DAY_MS))
            self._pending.append(new[:end])
            self._pending_rows += end
            self._last_id = int(new.id[end - 1])
            new = new[end:]
            if self._is_due():
                self.flush()

    def flush(self) -> None:
        """Write the trades that aren't written yet as a part."""
        if self._pending:
            trades = Trades.join(self._pending)
            self._pending, self._pending_rows = [], 0
            self._submit(self._store.add_part, trades, self._metadata)
            self._metadata = self._metadata.beginning(False)

    def close(self, *, ended: bool = False) -> None:
        """Write the remaining trades, and merge all parts into the files of their days.

        Args:
            ended: whether the last trade was the last of its day.

        Raises:
            Contradiction: parts of a day differ from each other or from the day's file; the parts are kept.
            DataError: a write failed.
        """
        self.flush()
        self._submit(self._store.compact, self._symbol, None, self._day if ended else None)
        self._writer.shutdown(wait=True)
        self._check()

    def _begin_day(self, new: Trades, day: date) -> None:
        before, self._day = self._day, day
        self.flush()
        follows = before is not None and int(new.id[0]) == self._last_id + 1
        self._submit(self._compact_earlier, day, before if follows else None)
        if before:
            self._metadata = self._metadata.beginning(follows)

    def _compact_earlier(self, day: date, ended: date | None) -> None:
        with suppress(Contradiction):  # recording goes on; `close` raises it
            self._store.compact(self._symbol, day, ended)

    def _is_due(self) -> bool:
        held_ms = int(self._pending[-1].time[-1] - self._pending[0].time[0])
        return held_ms >= self._flush_ms or self._pending_rows >= self._flush_rows

    def _submit(self, write: Callable[..., None], *arguments: Any) -> None:
        self._written.append(self._writer.submit(write, *arguments))

    def _check(self) -> None:
        """Raise the error of a write that failed."""
        over = [future for future in self._written if future.done()]
        self._written = [future for future in self._written if future not in over]
        for future in over:
            error = future.exception()
            if isinstance(error, Contradiction):
                raise error
            if error:
                raise DataError(f"{self._store.root}: trades can't be recorded: {error}") from error
