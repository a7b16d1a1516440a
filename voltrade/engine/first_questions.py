"""What a killed engine's successor asks first, while it still imports the rest of itself: is its position covered?

Most of a start is imports, and most of these are needed for what to do with the answers, not for the questions. This
module imports the exchange alone: nothing that compiles, no core and no journal (a test holds it to that).
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from voltrade.engine.clocks import WallClock
from voltrade.errors import VoltradeError
from voltrade.exchange.binance import DEMO, LIVE, BinanceRestClient, Endpoint, connect, endpoint_of
from voltrade.exchange.block_note import BlockNote
from voltrade.exchange.credentials import Credentials

log = logging.getLogger(__name__)

RECORD = "run.json"
"""As in `runs.run_file`, which imports more."""


def endpoint_for(mode: str, venue: str, rest_host: str, stream_host: str) -> Endpoint:
    """Return Binance, its demo, or the simulated venue that replaces either.

    Raises:
        ConfigError: An address is none that may be used.
    """
    if venue:
        return Endpoint.simulated(venue, venue.replace("http", "ws", 1))
    return endpoint_of(DEMO if mode == "demo" else LIVE, rest_host, stream_host)


class FirstQuestions:
    """Questions about the account of a run in mode `demo` or `live`, on their way.

    They are not sent while the exchange blocks requests, as an earlier process has noted.

    Args:
        run_dir: Folder of the run.
        symbol: Of the run.
        given: Endpoint, credentials, and how long a request may take to arrive, in ms.

    Attributes:
        clock, exchange, rest: What the session uses from now on, if `take` allows it.
    """

    def __init__(self, run_dir: Path, symbol: str, *given: Any) -> None:
        self._given, self._is_taken = given, False
        endpoint, credentials, recv_window_ms = given
        self.clock = WallClock()
        self.exchange = connect(endpoint, credentials, self.clock, recv_window_ms)
        self.exchange.keep_block(BlockNote(run_dir))
        self.rest = BinanceRestClient(self.exchange, endpoint.name)
        self.rest.begin_account(symbol)

    @classmethod
    def begin(cls, run_dir: Path, environment: Mapping[str, str]) -> FirstQuestions | None:
        """Ask about the account of a run that goes on; None where there is nothing to ask yet, or no way to.

        Whatever is wrong then is found again by the engine, which tells it.
        """
        try:
            record = json.loads((run_dir / RECORD).read_text())
            given = record["parameters"]
            if given["mode"] not in ("demo", "live") or not record.get("begun") or record["state"] == "ended":
                return None
            credentials = Credentials.load(environment)
            if credentials.fingerprint != record["account"]:
                return None
            endpoint = endpoint_for(*(given[name] for name in ("mode", "venue", "rest_host", "stream_host")))
            return cls(run_dir, given["symbol"], endpoint, credentials, given["recv_window_ms"])
        except (VoltradeError, OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            log.info("nothing was asked before the imports: %s", type(error).__name__)
            return None

    def take(self, *wanted: Any) -> bool:
        """Return whether these are for the same endpoint, credentials and window, and so can be used; once."""
        self._is_taken, was_taken = self._is_taken or wanted == self._given, self._is_taken
        return self._is_taken and not was_taken

    async def close(self) -> None:
        """Close the connection, unless the session uses it."""
        if not self._is_taken:
            await self.exchange.close()
