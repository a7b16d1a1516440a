"""Run a simulated Binance USD-M Futures server on loopback.

It plays tapes of trades and accepts orders by Binance's REST and websocket protocol. When ready it prints one JSON line
with the addresses for clients: REST paths start with /fapi, websockets with /market, /public, /private, /ws or /stream.
LOG/truth.jsonl has everything that happened, one JSON object a line, in order: every request with the code of its
response, every order, fill, change of the wallet and fault. A venue started again with the same LOG continues with the
same account, orders and position on the tape.

  python -m voltrade venue --log runs/venue --port 9000
  python -m voltrade venue --log runs/venue --speed 1 --also ETHUSDT --faults storm --seed 7

speed 1 shifts the tapes to start now and plays them in real time, with a mark price each second. speed 0 (lockstep)
waits at every step for a client of the side channel /voltrade/lockstep, which Binance does not have: it sends
{"op": "go"} for the next trades, and {"op": "at", "trade_id", "marks", "time"} when it has handled them. POST
/voltrade/stop, SIGTERM, or --idle-s seconds without use stop the venue after its log is complete; GET /voltrade/status
returns the position on the tape; POST /voltrade/fault adds faults to those of --faults, a JSON list as in a script,
with times that count from now.
docs/venue.md describes what is modelled.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from voltrade.config import Config, SessionSettings, parameter_homes
from voltrade.data.tape import Tape, load_tape
from voltrade.errors import ConfigError, DataError
from voltrade.model import Trades
from voltrade.simulated.rehearsal import rehearse
from voltrade.simulated.symbols import shipped_instrument
from voltrade.strategy.rule_file import read_parameters
from voltrade.venue.faults import load_script, script_help
from voltrade.venue.requests import tables_text
from voltrade.venue.server import serve, shifted

FLAGS = (
    *("symbol", "tape", "seed", "hours", "speed", "begin_s", "latency_ms", "slippage_bps", "wallet", "taker_fee"),
    *("fill_horizon_s", "maker_fee", "funding_rate", "mark_interval_s", "leverage", "margin_type"),
)
"""Settings with a flag."""


async def run_venue(config: Config, *tapes: Tape | Trades, idle_s: float = 0, **options: Any) -> None:
    """Serve until SIGTERM, Ctrl-C, `POST /voltrade/stop` or `idle_s`; print one JSON line of addresses when ready."""
    venue = await serve(config, *tapes, **options)
    loop = asyncio.get_running_loop()
    for name in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(name, venue.stopping.set)
    print(json.dumps({"rest": venue.rest_url, "ws": venue.ws_url, "pid": os.getpid()}), flush=True)
    try:
        await venue.until_stopped(idle_s)
    finally:
        await venue.close()


def main(argv: Sequence[str] | None = None) -> int:
    """Run `python -m voltrade venue`; return its exit status."""
    parser = _parser()
    given = parser.parse_args(argv)
    if given.tables:
        print(tables_text(), end="")
        return 0
    if given.log is None:
        parser.error("the following arguments are required: --log")
    options = {name: getattr(given, name) for name in ("port", "api_key", "api_secret", "idle_s")}
    try:
        script = load_script(given.faults) if given.faults else []
        config = _config(given)
        named = [(config.session.symbol, "", config.session.tape), *(each.partition("=") for each in given.also)]
        tapes = [_tape(config.session, symbol, file, number) for number, (symbol, _, file) in enumerate(named)]
        if config.session.speed:  # in lockstep everybody waits anyhow
            rehearse(config, shipped_instrument(config.session.symbol), shifted(tapes[0].trades, 0))
        asyncio.run(run_venue(config, *tapes, log_dir=given.log, script=script, **options))
    except (ConfigError, DataError, OSError) as error:
        print(f"venue: {error}", file=sys.stderr)
        return 2
    return 0


def _tape(session: SessionSettings, symbol: str, file: str, number: int) -> Tape:
    """Read or make the tape of a symbol; each synthetic tape has its own seed."""
    changes = {"symbol": symbol, "seed": session.seed + number, "tape": file or "synthetic"}
    return load_tape(session.model_copy(update=changes), shipped_instrument(symbol))


def _parser() -> argparse.ArgumentParser:
    kind = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser("python -m voltrade venue", None, __doc__, script_help(), formatter_class=kind)
    add = parser.add_argument
    add("--log", type=Path, metavar="DIR", help="folder of the ground-truth log; needed")
    add("--port", type=int, default=0, help="port to listen on; 0, the default, takes a free one")
    add("--api-key", default="sim-key", metavar="KEY", help="the only valid API key (default sim-key)")
    add("--api-secret", default="sim-secret", metavar="SECRET", help="signs requests of that key (default sim-secret)")
    also = "another symbol, with a tape file or a synthetic tape; may be repeated"
    idle = "end after so many seconds without a socket or request, 0 for never (default 0)"
    add("--idle-s", type=float, default=0.0, metavar="SECONDS", help=idle)
    add("--also", action="append", default=[], metavar="SYMBOL[=FILE]", help=also)
    add("--faults", metavar="SCRIPT", help="faults on purpose: a name or a JSON file, see below")
    add("--tables", action="store_true", help="print the tables of paths and codes, and end")
    add("--parameters", type=Path, metavar="FILE", help="JSON object of parameters; flags win over it")
    homes = parameter_homes()
    for name in FLAGS:
        component = getattr(Config(), homes[name])
        default = getattr(component, name)
        words = (type(component).model_fields[name].description or "").replace("%", "%%")
        add(f"--{name.replace('_', '-')}", type=type(default), help=f"{words} (default {default})".strip())
    return parser


def _config(given: argparse.Namespace) -> Config:
    parameters = {}
    if given.parameters is not None:
        try:
            parameters = json.loads(given.parameters.read_text())
        except json.JSONDecodeError as error:
            raise ConfigError(f"parameters: must be a JSON object, {given.parameters} is not: {error}") from None
    flags = {name: getattr(given, name) for name in FLAGS if getattr(given, name) is not None}
    chosen = {**parameters, **flags}
    if chosen.get("speed"):
        chosen.setdefault("mark_interval_s", 1)  # as Binance tells them, which clients wait for
    return read_parameters(chosen, makes_bars=False)
