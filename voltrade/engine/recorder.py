"""Keeps what a session's streams bring in the store, so that tomorrow's research has today's trades.

Trading never waits for it and never fails by it: files are written by the recorder's own thread, and one that can't be
written ends the recording, not the session.
"""

from __future__ import annotations

import logging

from voltrade.config import SessionSettings
from voltrade.data.kinds import TRADES, day_of
from voltrade.data.store import Store
from voltrade.data.trade_recorder import Recorder
from voltrade.errors import DataError
from voltrade.model import Event, Instrument, Output, Trades

log = logging.getLogger(__name__)


def is_wanted(session: SessionSettings) -> bool:
    """Whether a session's trades are kept."""
    if session.record_trades == "binance":
        return session.mode in ("paper", "live") and not session.venue
    return session.record_trades == "always"


class Recording:
    """An observer of a session that records its trades.

    Args:
        store: where they are kept.
        instrument: the symbol.
        source: stands in the files.
        now: ms UTC; the day that may have been begun already.
    """

    def __init__(self, store: Store, instrument: Instrument, source: str, now: int) -> None:
        known = store.day(TRADES, instrument.symbol, day_of(now))
        self._recorder: Recorder | None = Recorder(store, instrument, source, after=known)

    def observe(self, fact: Event | Output) -> None:
        """Record a block of trades; pass over anything else."""
        if self._recorder is None or not isinstance(fact, Trades):
            return
        try:
            self._recorder.record(fact)
        except DataError as error:
            log.warning("trades are not recorded any more: %s", error)
            self._recorder = None

    def close(self) -> None:
        """Write what is left; takes as long as the disk does."""
        if self._recorder is None:
            return
        try:
            self._recorder.close()
        except DataError as error:
            log.warning("the last trades could not be recorded: %s", error)
