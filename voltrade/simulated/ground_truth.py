"""The ground-truth log of a simulated exchange on disk, and how an exchange is restored from it.

Tests compare sessions with the log, and a venue or paper session continues from it after a restart: the logged inputs
are applied to a new exchange, and their effects must equal the logged ones.
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
from voltrade.simulated.event_log import CODECS, EFFECTS, INPUTS, Log, restore_prices
from voltrade.simulated.exchange import SimulatedExchange
from voltrade.simulated.margin_account import Terms


class TruthLog:
    """A file of JSON lines, each written before its event is sent.

    Attributes:
        rows: the rows when the file was opened; an incomplete last line is removed.
    """

    def __init__(self, directory: Path) -> None:
        """Open the log in a folder, or create it.

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


def restored(
    rows: Iterable[Mapping[str, Any]], log: Log | None = None, tapes: Iterable[Trades] = ()
) -> SimulatedExchange:
    """Return the exchange that wrote a log, in its state after the last row.

    Its outbox is empty, so clients must read the account. Trades after the last row are unknown: a tape continues after
    each market's `last_trade_id`, a live stream with its next trade.

    Args:
        rows: of the log; kinds that the exchange does not write are skipped.
        log: takes further rows, beginning with effects of the last input that were not written.
        tapes: the tapes that the exchange played, since trades to come have priced what took.

    Raises:
        DataError: the first row is not a start, or the effects differ from the log.
    """
    return _Replay(rows, log, tapes).exchange


class _Replay:
    def __init__(self, rows: Iterable[Mapping[str, Any]], log: Log | None, tapes: Iterable[Trades]) -> None:
        self._written = deque(dict(row) for row in rows if row["kind"] in (*INPUTS, *EFFECTS, "jumped", "spread"))
        self._log = log
        if not self._written or self._written[0]["kind"] != "start":
            raise DataError("log: must begin with the start of an exchange")
        self.exchange = self._start(self._written[0])
        for tape in tapes:
            self.exchange.markets[tape.symbol].follow(tape)
        while self._written:
            row = self._written[0]
            self.exchange.events.advance(row["time"])  # what arrives meanwhile has rows of its own
            self._do(row)
        self.exchange.outbox.clear()
        self.exchange.events.write_to(log)

    def _check(self, row: dict[str, Any]) -> None:
        """Compare a row with the logged one; write it if it comes after the last one."""
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
        """Apply the input of a row."""
        match row["kind"]:
            case "market":
                restore_prices(self.exchange.markets[row["symbol"]], row["stand"])
                self.exchange.events.note_markets()
            case "accepted":
                self._accept(row)
            case "arrival":
                self.exchange.advance(row["time"])
            case "trade":
                self._trade(row)
            case "mark":
                times = row["marked"], row["funding_rate_e8"], row["next_funding_time"]
                self.exchange.on_mark(MarkPrice(row["symbol"], times[0], money(row["price"]), *times[1:]))
            case "finish":
                self.exchange.finish(row["symbol"])
            case "jumped":  # a row of the venue's: the exchange only reads the tape
                self._written.popleft()
                self.exchange.markets[row["symbol"]].jump(row["trade_id"], row["count"], row["ticks"])
            case "spread":
                self._written.popleft()
                self.exchange.markets[row["symbol"]].spread(row["trade_id"], row["ticks"], row["lots"])
            case _:
                raise DataError(f"log: follows from nothing before it: {json.dumps(row)}")

    def _accept(self, row: Mapping[str, Any]) -> None:
        given = _read({name: fact for name, fact in row.items() if name not in ("time", "kind", "action")})
        if "asked" in given:  # its client id is also a field of the row, for readers
            given = {"request": given["asked"]}
        is_own = hasattr(self.exchange, row["action"])
        getattr(self.exchange if is_own else self.exchange.interventions, row["action"])(**given)

    def _trade(self, row: Mapping[str, Any]) -> None:
        instrument = self.exchange.markets[row["symbol"]].instrument
        price, quantity = instrument.ticks(row["price"]), instrument.lots(row["quantity"])
        trade = (row["id"], price, quantity, row["traded"], row["taker"] == "SELL")
        self.exchange.on_trades(Trades.from_rows(row["symbol"], [trade]))


def _read(row: Mapping[str, Any]) -> dict[str, Any]:
    return {name: CODECS[name].validate_python(fact) if name in CODECS else fact for name, fact in row.items()}
