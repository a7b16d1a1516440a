"""The processes of a conformance session: the venue on its tape, and a client in its own environment."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
SYMBOL = "BTCUSDT"
TICKS, EVERY_MS, TAPE_S, BEGIN_S = 800_000, 200, 7_200, 3_600
"""The tape: trades at 80,000, five a second, for two hours, of which the venue opens after the first."""


@dataclass
class Market:
    """A venue in a process of its own."""

    rest: str
    ws: str
    log: Path

    def rows(self) -> list[dict[str, Any]]:
        """Return what its log has so far, whole lines only."""
        text = self.log.read_text()
        return [json.loads(line) for line in text[: text.rfind("\n") + 1].splitlines()]

    def fall(self, fraction: float) -> None:
        """Let all prices from now on be lower by a fraction."""
        jump = [{"do": "jump", "with": {"symbol": SYMBOL, "by": -fraction}}]
        with urllib.request.urlopen(f"{self.rest}/voltrade/fault", json.dumps(jump).encode()):
            pass


@contextmanager
def a_market(folder: Path) -> Iterator[Market]:
    """Run a venue whose tape is calm but for what the script does."""
    tape = folder / f"{SYMBOL}-aggTrades.csv"
    write_tape(tape)
    command = [sys.executable, "-m", "voltrade", "venue", "--log", str(folder / "venue"), "--tape", str(tape)]
    options = [f"--symbol={SYMBOL}", "--speed=1", f"--begin-s={BEGIN_S}", "--mark-interval-s=1"]
    with (folder / "venue.log").open("w") as errors:
        process = subprocess.Popen(command + options, stdout=subprocess.PIPE, stderr=errors, cwd=ROOT, text=True)
    assert process.stdout is not None
    try:
        ready = json.loads(process.stdout.readline())
        yield Market(ready["rest"], ready["ws"], folder / "venue" / "truth.jsonl")
    finally:
        process.terminate()
        process.wait(30)
        process.stdout.close()


def write_tape(file: Path) -> None:
    """Write the tape as a file of Binance's aggregate trades."""
    rows = ["agg_trade_id,price,quantity,first_trade_id,last_trade_id,transact_time,is_buyer_maker"]
    for n in range(1, TAPE_S * 1_000 // EVERY_MS + 1):
        price, sold = f"{(TICKS + n % 2) / 10:.1f}", str(n % 2 == 0).lower()
        rows.append(f"{n},{price},0.500,{n},{n},{1_700_000_000_000 + n * EVERY_MS},{sold}")
    file.write_text("\n".join(rows) + "\n")


# --- clients ----------------------------------------------------------------------------------------------------------


def freqtrade(python: Path, market: Market, folder: Path) -> list[str]:
    """Return the command that runs freqtrade with a configuration and a database in the folder."""
    (folder / "config.json").write_text(json.dumps(freqtrade_config(market, folder), indent=2))
    places = ["--config", str(folder / "config.json"), "--userdir", str(folder), "--strategy-path", str(HERE)]
    return [str(python), "-m", "freqtrade", "trade", *places, "--strategy", "FreqtradeSession"]


def freqtrade_config(market: Market, folder: Path) -> dict[str, Any]:
    """Return freqtrade's configuration: as for Binance, but for `ccxt_config`, which aims it at the venue."""
    versions = [(f"fapi{kind}{v}", v.lower() or "v1") for kind in ("Public", "Private") for v in ("", "V2", "V3")]
    paths = {name: f"{market.rest}/fapi/{version}" for name, version in versions}
    ccxt = {"urls": {"api": paths}, "options": {"fetchCurrencies": False, "fetchMarkets": {"types": ["linear"]}}}
    exchange = {"name": "binance", "key": "sim-key", "secret": "sim-secret", "pair_whitelist": ["BTC/USDT:USDT"]}
    types = {"entry": "limit", "exit": "market", "stoploss": "market", "stoploss_on_exchange": True}
    pricing = {"price_side": "other", "use_order_book": True, "order_book_top": 1}
    return {
        **{"dry_run": False, "trading_mode": "futures", "margin_mode": "isolated", "max_open_trades": 1},
        **{"stake_currency": "USDT", "stake_amount": 2_000, "db_url": f"sqlite:///{folder / 'trades.sqlite'}"},
        **{"entry_pricing": pricing, "exit_pricing": pricing, "order_types": types},
        **{"exchange": {**exchange, "ccxt_config": ccxt}, "pairlists": [{"method": "StaticPairList"}]},
        **{"initial_state": "running", "internals": {"process_throttle_secs": 1}},
    }


def nautilus_trader(python: Path, market: Market, folder: Path) -> list[str]:
    """Return the command that runs a live node of nautilus_trader's with the addresses of the venue."""
    return [str(python), str(HERE / "nautilus_client.py"), market.rest, market.ws]


@dataclass(frozen=True)
class Kind:
    """A client that can be played with.

    Attributes:
        command: returns what runs it, given its Python, the venue and a folder.
        excused: codes of refusals that belong to how it works.
        keeps: whether it keeps its trades over a restart.
    """

    command: Callable[[Path, Market, Path], list[str]]
    excused: Sequence[int]
    keeps: bool


KINDS = {
    "freqtrade": Kind(freqtrade, (-4046,), keeps=True),  # it sets the margin type before each entry
    "nautilus_trader": Kind(nautilus_trader, (), keeps=False),
}


class Client:
    """A client's process, which may be started again, and its words.

    Args:
        command: what runs it.
        folder: where its words and the output of its processes go.
    """

    def __init__(self, command: Sequence[str], folder: Path) -> None:
        self._command, self._folder, self._runs = command, folder, 0
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        self._runs += 1
        environment = {**os.environ, "CONFORMANCE_FOLDER": str(self._folder), "PYTHONPATH": str(HERE)}
        with (self._folder / f"client-{self._runs}.log").open("w") as log:
            self._process = subprocess.Popen(
                self._command, stdout=log, stderr=subprocess.STDOUT, env=environment, cwd=self._folder
            )

    def end(self, how: int = signal.SIGKILL) -> None:
        """End the process, by default without warning."""
        if self._process is not None:
            self._process.send_signal(how)
            self._process.wait(60)
            self._process = None

    @property
    def is_running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def permit(self, what: str) -> None:
        """Permit it to `enter` or to `leave` once."""
        (self._folder / what).touch()

    def knows(self) -> dict[str, Any]:
        """Return the last that the present process has said; empty before it has said anything."""
        file = self._folder / "words.jsonl"
        text = file.read_text() if file.exists() else ""
        words = [json.loads(line) for line in text[: text.rfind("\n") + 1].splitlines()]
        mine = [word for word in words if self._process is not None and word["pid"] == self._process.pid]
        return mine[-1] if mine else {}

    def complaints(self) -> list[str]:
        """Return the lines of its output that it calls errors."""
        logs = [file.read_text(errors="replace") for file in sorted(self._folder.glob("client-*.log"))]
        return [line for log in logs for line in log.splitlines() if " - ERROR - " in line or "[ERROR]" in line]
