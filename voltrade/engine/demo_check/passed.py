"""Passed checks are kept for 30 days, beside the ledgers, so that mode `live` knows whether its code was checked."""

from __future__ import annotations

import json
import os
import shlex
from collections.abc import Callable, Mapping
from hashlib import sha256
from importlib.metadata import version
from pathlib import Path
from typing import Any

from voltrade.config import Config
from voltrade.engine.checks import Check, unchecked
from voltrade.engine.modes import Wiring
from voltrade.errors import JournalError
from voltrade.exchange.account_facts import SymbolFacts, symbol_facts
from voltrade.journal.lock import refuse_unsafe
from voltrade.model import DAY_MS, Instrument, Snapshot, moment_text
from voltrade.runs.ledger_file import accounts_home

VALID_DAYS = 30
CHECKED = (
    "symbol",
    "capital",
    "risk_fraction",
    "max_notional_multiple",
    "leverage",
    "margin_type",
    "duration_s",
    "on_duration_end",
    "recv_window_ms",
)
"""Settings of a session that its check needs too, as the start-up table judges them; by default they are the same."""


def command(config: Config) -> str:
    """Return the whole command of a check on the demo for sessions with these settings."""
    defaults, given = Config().parameters(), config.parameters()
    differing = {name: given[name] for name in CHECKED if given[name] != defaults[name]}
    options = [f"-p {name} {shlex.quote(str(value))}" for name, value in {"mode": "demo", **differing}.items()]
    return f"python -m voltrade doctor --trade {' '.join(options)}"


PACKAGES = ("aiohttp", "ccxt", "orjson", "yarl")
"""Packages that requests, answers and events go through."""


def exchange_version(home: Path = Path(__file__).parents[2], installed: Callable[[str], str] = version) -> str:
    """Return the version of voltrade, with a hash of all its code and of the packages that meet the exchange.

    How an answer is reacted to is as much a part of it as how it is read, and so is the check itself.

    Args:
        home: Folder of the code.
        installed: Tells the version of a package.
    """
    digest = sha256()
    for file in sorted(home.rglob("*.py")):
        digest.update(f"{file.relative_to(home)} {sha256(file.read_bytes()).hexdigest()}\n".encode())
    for name in PACKAGES:
        digest.update(f"{name}=={installed(name)}\n".encode())
    return f"{installed('voltrade')}-{digest.hexdigest()[:12]}"


def account_kind(snapshot: Snapshot, symbol: SymbolFacts, instrument: Instrument) -> str:
    """Return the kind of an account and symbol; a check of one kind says nothing of another."""
    return _kind(snapshot.hedge_mode, snapshot.multi_assets, snapshot.margin_type, symbol, instrument)


def _kind(hedge_mode: bool, multi_assets: bool, margin_type: str, symbol: SymbolFacts, instrument: Instrument) -> str:
    return ", ".join(
        [
            "hedge" if hedge_mode else "one-way",
            "multi-assets" if multi_assets else "single-asset",
            margin_type,
            symbol.contract_type or "PERPETUAL",
            instrument.quote_asset,
        ]
    )


def keep_passed(facts: Mapping[str, Any], environment: Mapping[str, str]) -> Path:
    """Keep a passed check; return its file.

    Args:
        facts: `version`, `kind`, `time` in ms UTC, and what else describes the check.
        environment: Such as `os.environ`.
    """
    folder = _folder(environment)
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    name = sha256(f"{facts['version']} {facts['kind']}".encode()).hexdigest()[:16]
    path, fresh = folder / f"{name}.json", folder / f"{name}.{os.getpid()}.tmp"
    with os.fdopen(os.open(fresh, os.O_CREAT | os.O_TRUNC | os.O_WRONLY | os.O_CLOEXEC, 0o600), "w") as file:
        json.dump(dict(facts), file)
    fresh.replace(path)
    return path


def last_passed(version_: str, kind: str, environment: Mapping[str, str]) -> Mapping[str, Any] | None:
    """Return the facts of the last passed check of a version and kind; None without one that can be trusted."""
    name = sha256(f"{version_} {kind}".encode()).hexdigest()[:16]
    path = _folder(environment) / f"{name}.json"
    try:
        refuse_unsafe(path.parent, folder=True)
        refuse_unsafe(path, folder=False)
        facts = json.loads(path.read_text())
        return facts if facts["version"] == version_ and facts["kind"] == kind and int(facts["time"]) else None
    except (OSError, ValueError, KeyError, TypeError, JournalError):
        return None


async def check_demo_check(wiring: Wiring, environment: Mapping[str, str]) -> list[Check]:
    """Return the start-up row about the last check, in mode `live`; none in other modes.

    Raises:
        ExchangeError: The account's kind could not be read.
    """
    config = wiring.config
    if config.session.mode != "live":
        return []
    if wiring.endpoint.name != "live":
        return [Check("demo check", "not needed: a simulated venue stands in for Binance")]
    # As the account must be, since the start may have to set it first, and refuses any other.
    symbol = await symbol_facts(wiring.rest, config.session.symbol)
    kind = _kind(False, False, config.risk.margin_type, symbol, wiring.instrument)
    return [passed_check(kind, wiring.clock(), environment, config)]


def passed_check(kind: str, now: int, environment: Mapping[str, str], config: Config) -> Check:
    """Return the row of the start-up table about the last check of this version and account kind."""
    allow_unchecked = config.session.allow_unchecked
    within = f"at most {VALID_DAYS} days ago"
    wanted = f"passed for this version and {kind}, {within}: {command(config)}; or -p allow_unchecked True"
    facts = last_passed(exchange_version(), kind, environment)
    if facts is None:
        found = "no passed check"
    elif int(facts["time"]) > now:
        found = f"passed at {moment_text(int(facts['time']))}, later than now, {moment_text(now)}: a clock was wrong"
    elif now - int(facts["time"]) > VALID_DAYS * DAY_MS:
        found = f"passed at {moment_text(int(facts['time']))}"
    else:
        return Check("demo check", f"passed at {moment_text(int(facts['time']))}, {facts.get('mode', '')}", wanted)
    return unchecked("demo check", found, wanted, allow_unchecked)


def _folder(environment: Mapping[str, str]) -> Path:
    return accounts_home(environment).parent / "checks"
