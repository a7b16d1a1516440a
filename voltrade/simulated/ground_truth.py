"""The ground-truth log of a simulated exchange on disk, and the exchange made from it again.

The log is what tests believe, and what a venue or a paper session comes back from after a restart: what was done to the
exchange is done to a new one, and what follows must be what the log says.
"""

from __future__ import annotations

import fcntl
import json
from collections import deque
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import IO, Any

import orjson

from voltrade.errors import DataError
from voltrade.model import MarkPrice, Trades, money
from voltrade.simulated.clearing import EFFECTS, INPUTS, Log, Terms, restore_prices
from voltrade.simulated.exchange import CODECS, SimulatedExchange


class TruthLog:
    """What really happened, one JSON object a line, handed to the system before anybody is told.

    Attributes:
        rows: what the file said when it was opened; a last line that was not written whole is cut off.
    """

    def __init__(self, directory: Path) -> None:
        """Open the log in a folder, or begin it.

        Raises:
            DataError: another process is writing it.
        """
        directory.mkdir(parents=True, exist_ok=True)
        self.path = directory / "truth.jsonl"
        self._file: IO[bytes] = self.path.open("ab", buffering=0)
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self._file.close()
            raise DataError(f"log: {self.path} is being written by another process") from None
        written = self.path.read_bytes()
        whole = written.rfind(b"\n") + 1
        self._file.truncate(whole)
        self.rows: list[dict[str, Any]] = [orjson.loads(line) for line in written[:whole].splitlines()]

    def write(self, row: Mapping[str, Any]) -> None:
        self._file.write(orjson.dumps(row) + b"\n")

    def close(self) -> None:
        self._file.close()


def restored(rows: Iterable[Mapping[str, Any]], log: Log | None = None) -> SimulatedExchange:
    """Make the exchange again that wrote a log, as it was after the last row.

    Its outbox is empty: who was to be told must ask. What others traded after the last row is not known: a tape is
    played on after each market's `last_trade_id`, a live stream goes on with what comes next.

    Args:
        rows: of the log; those of other kinds than the exchange's own are passed over.
        log: where the exchange writes from now on: first what followed from the last input and was not written yet.

    Raises:
        DataError: the log does not begin with a start, or says something else than what follows.
    """
    return _Replay(rows, log).exchange


class _Replay:
    def __init__(self, rows: Iterable[Mapping[str, Any]], log: Log | None) -> None:
        self._written = deque(dict(row) for row in rows if row["kind"] in (*INPUTS, *EFFECTS))
        self._log = log
        if not self._written or self._written[0]["kind"] != "start":
            raise DataError("log: must begin with the start of an exchange")
        self.exchange = self._start(self._written[0])
        while self._written:
            row = self._written[0]
            self.exchange.advance(row["time"])
            self._do(row)
        self.exchange.outbox.clear()
        self.exchange.write_to(log)

    def _check(self, row: dict[str, Any]) -> None:
        """Hold a row against the one that was written; behind the last one, write it."""
        if self._written:
            written = self._written.popleft()
            if written != row:
                raise DataError(f"log: must say {json.dumps(row)}, says {json.dumps(written)}")
        elif self._log is not None:
            self._log(row)

    def _start(self, row: Mapping[str, Any]) -> SimulatedExchange:
        given = _read(row)
        terms = {name: given[name] for name in Terms.__slots__}
        return SimulatedExchange(
            given["instruments"],
            Terms(**{**terms, "wallet": money(given["wallet"])}),
            clock=given["time"],
            log=self._check,
            rules=given["all_rules"],
        )

    def _do(self, row: Mapping[str, Any]) -> None:
        """Do again what a row says was done."""
        match row["kind"]:
            case "market":
                restore_prices(self.exchange.markets[row["symbol"]], row["stand"])
                self.exchange.note_markets()
            case "accepted":
                self._accept(row)
            case "trade":
                self._trade(row)
            case "mark":
                times = row["marked"], row["funding_rate_e8"], row["next_funding_time"]
                self.exchange.on_mark(MarkPrice(row["symbol"], times[0], money(row["price"]), *times[1:]))
            case "finish":
                self.exchange.finish(row["symbol"])
            case _:
                raise DataError(f"log: follows from nothing before it: {json.dumps(row)}")

    def _accept(self, row: Mapping[str, Any]) -> None:
        given = _read({name: fact for name, fact in row.items() if name not in ("time", "kind", "action")})
        if "asked" in given:  # the client id beside it stands there for people
            given = {"request": given["asked"]}
        getattr(self.exchange, row["action"])(**given)

    def _trade(self, row: Mapping[str, Any]) -> None:
        instrument = self.exchange.markets[row["symbol"]].instrument
        price, quantity = instrument.ticks(row["price"]), instrument.lots(row["quantity"])
        trade = (row["id"], price, quantity, row["traded"], row["taker"] == "SELL")
        self.exchange.on_trades(Trades.from_rows(row["symbol"], [trade]))


def _read(row: Mapping[str, Any]) -> dict[str, Any]:
    return {name: CODECS[name].validate_python(fact) if name in CODECS else fact for name, fact in row.items()}
