"""Records a session's trades in the store, for later research.

Trading never waits for it and never fails by it: a separate thread writes the files, and a failed write ends the
recording, not the session.
"""

from __future__ import annotations

import logging
import threading
from typing import TYPE_CHECKING

from voltrade.config import SessionSettings
from voltrade.data.kinds import TRADES, day_of
from voltrade.errors import DataError
from voltrade.model import Event, Filters, Instrument, Output, Trades

if TYPE_CHECKING:  # they import pyarrow, which an engine that records nothing need not load
    from voltrade.data.store import Store
    from voltrade.data.trade_recorder import Recorder

log = logging.getLogger(__name__)


def is_wanted(session: SessionSettings) -> bool:
    """Whether a session's trades are recorded."""
    if session.record_trades == "binance":
        return session.mode in ("paper", "live") and not session.venue
    return session.record_trades == "always"


class Recording:
    """Records the trades of a session.

    Args:
        store: Where the trades are written.
        instrument: The symbol.
        source: Written into the files.
        now: The time, ms UTC; its day may be in the store already.
    """

    def __init__(self, store: Store, instrument: Instrument, source: str, now: int) -> None:
        from voltrade.data.trade_recorder import Recorder

        known = store.day(TRADES, instrument.symbol, day_of(now))
        self._recorder: Recorder | None = Recorder(store, instrument, source, after=known)

    def observe(self, fact: Event | Output) -> None:
        """Record a block of trades, until tick or step become finer; ignore all other facts."""
        if self._recorder is not None and isinstance(fact, Filters) and fact.is_finer:
            log.warning("trades are not recorded any more: they are no multiples of the recording's tick and step")
            # In a thread, since the session's loop must not wait for the disk; the process ends after it.
            threading.Thread(target=_close, args=(self._recorder,), name="recording").start()
            self._recorder = None
        if self._recorder is None or not isinstance(fact, Trades):
            return
        try:
            self._recorder.record(fact)
        except DataError as error:
            log.warning("trades are not recorded any more: %s", error)
            self._recorder = None

    def close(self) -> None:
        """Write the last trades; this waits for the disk."""
        if self._recorder is not None:
            _close(self._recorder)


def _close(recorder: Recorder) -> None:
    try:
        recorder.close()
    except DataError as error:
        log.warning("the last trades could not be recorded: %s", error)


def recording_of(session: SessionSettings, instrument: Instrument, endpoint: str, now: int) -> Recording | None:
    """Return the recording of a session's trades into the store; None where they are not recorded.

    Args:
        session: The session's settings.
        instrument: The symbol.
        endpoint: Where the trades come from.
        now: The time, ms UTC.
    """
    if not is_wanted(session):
        return None
    from voltrade.data.store import Store  # imports pyarrow, which would slow the start down

    return Recording(Store(), instrument, f"{session.mode} {endpoint}", now)
