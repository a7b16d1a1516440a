"""`python -m voltrade doctor`: whether a session with these settings could start, and what it lacks.

The rows are a few about this machine, and those of the start-up table. Nothing is traded, changed or written; with
`--trade` the command runs `demo_check`, which trades.
"""

from __future__ import annotations

import os
import platform
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path

from voltrade.bar_spec import bar_spec
from voltrade.compiled import IS_PLAIN, cache_home
from voltrade.config import Config
from voltrade.data.symbol_threshold import MOST_DAYS, bars_by_days, bars_fault, day_by_range, symbol_threshold
from voltrade.data.tape import load_tape
from voltrade.engine.account_history import known_final_state
from voltrade.engine.account_pin import pin_checks
from voltrade.engine.checks import Check, failed_row
from voltrade.engine.demo_check.passed import check_demo_check
from voltrade.engine.modes import Wiring, reach
from voltrade.engine.notifier import Notifier
from voltrade.engine.order_sizes import size
from voltrade.engine.paper import PaperExchange
from voltrade.engine.permission import permit
from voltrade.engine.preflight import limits, notifications, preflight
from voltrade.engine.rule_compiler import find_lacking
from voltrade.errors import ConfigError, DataError, ExchangeError, SessionError, VoltradeError
from voltrade.exchange.credentials import Credentials
from voltrade.runs.ledger_file import accounts_home
from voltrade.simulated.symbols import shipped_instrument


async def examine(config: Config, environment: Mapping[str, str] = os.environ) -> list[Check]:
    """Return the start-up rows of a session with these settings."""
    checks = [
        *_machine(config, environment),
        notifications(Notifier(environment, "")),
        *_permission(config, environment),
    ]
    checks += [_threshold(config)]
    if any(check.item == "keys" for check in checks):
        return checks
    if config.session.mode == "sim" and not config.session.venue:
        return [*checks, *await _own_venue(config)]
    try:
        wiring = await reach(config, environment)
    except DataError as error:
        return [*checks, Check("symbol", f"can't be traded: {error}", ok=False)]
    except ConfigError as error:
        return [*checks, Check("settings", str(error), ok=False)]
    except ExchangeError as error:
        return [*checks, failed_row(error)]
    except VoltradeError as error:
        return [*checks, Check("exchange", f"out of reach: {error}", ok=False)]
    try:
        checks = _with_units(checks, config, wiring)
        checks += await preflight(wiring, known_final_state(wiring, environment))
        checks += [await _bars_a_day(wiring), *pin_checks(wiring, environment)]
        return [*checks, *await check_demo_check(wiring, environment)]
    except ExchangeError as error:
        return [*checks, failed_row(error)]
    except VoltradeError as error:
        return [*checks, Check("exchange", f"can't be read: {error}", ok=False)]
    finally:
        await wiring.close()


def _threshold(config: Config) -> Check:
    """Return the row about the threshold: the one that is given, or the symbol's own."""
    if "threshold" in config.bars.model_fields_set:
        return Check("threshold", f"{config.bars.threshold:f}, as given")
    try:
        own = symbol_threshold(config)
    except ConfigError as error:
        return Check("threshold", f"none: {error}", "given: -p threshold VOLUME", ok=False)
    found = f"{config.session.symbol}'s own {own.threshold:f}, {own.source}"
    is_free = config.session.mode in ("sim", "paper")
    return Check("threshold", found if is_free else f"none; {found}", "given: -p threshold VOLUME", is_free)


async def _own_venue(config: Config) -> list[Check]:
    """Return the rows about a venue that the session starts itself: a few symbols only, a tape, and a fresh account."""
    symbol = config.session.symbol
    try:
        instrument = shipped_instrument(symbol)
    except DataError as error:
        return [Check("symbol", f"can't be simulated: {error}", "one that a venue has: -p symbol", ok=False)]
    endpoint = Check("endpoint", "a simulated venue of the session's own, on this machine")
    try:
        tape = load_tape(config.session, instrument)
    except (DataError, OSError) as error:
        return [endpoint, Check("tape", f"can't be played: {error}", "one of trades of the symbol: -p tape", ok=False)]
    snapshot = await PaperExchange(config, instrument, lambda: int(tape.trades.time[0])).snapshot(symbol, 0)
    price = instrument.price(int(tape.trades.price[0]))
    return [endpoint, Check("tape", tape.source), size(instrument, snapshot, config, price), *limits(config)]


def _with_units(checks: list[Check], config: Config, wiring: Wiring) -> list[Check]:
    """Return the rows; that of the threshold fails if it is no multiple of the symbol's step."""
    try:
        if "threshold" in config.bars.model_fields_set:
            bar_spec(config.bars, wiring.filters)
    except ConfigError as error:
        rule = str(error).removeprefix("threshold: must be ")
        wrong = Check("threshold", f"{config.bars.threshold:f}, as given", rule.rpartition(", was")[0], ok=False)
        return [wrong if check.item == "threshold" else check for check in checks]
    return checks


async def _bars_a_day(wiring: Wiring) -> Check:
    """Return the row about how many bars the threshold gives by the exchange's own last days."""
    config, instrument = wiring.config, wiring.instrument
    try:
        days = [
            day_by_range(float(base), float(quote), trades, float(went))
            for base, quote, trades, went in await wiring.rest.whole_days(instrument.symbol, MOST_DAYS)
        ]
        given = "threshold" in config.bars.model_fields_set
        threshold = config.bars.threshold if given else symbol_threshold(config).threshold
    except (ConfigError, ExchangeError) as error:
        return Check("bars a day", f"unknown: {error}")
    if not days:
        return Check("bars a day", "unknown: the exchange tells of no whole day yet")
    found, fault = bars_by_days(days, threshold, instrument.step_size, config), bars_fault(days, threshold, config)
    wanted = "at least one, and fewer than trades: -p threshold VOLUME"
    return Check("bars a day", f"{found}: {fault}" if fault else found, wanted, not fault)


def _machine(config: Config, environment: Mapping[str, str]) -> list[Check]:
    runs = Path("runs")
    return [
        Check("python", platform.python_version()),
        Check("runs", str(runs.resolve()), "a folder that can be written", os.access(runs, os.W_OK)),
        _ledgers(environment),
        _compiled_code(config),
    ]


def _compiled_code(config: Config) -> Check:
    """Return the row about the compiled rules: where they are kept, and whether they are there yet."""
    cache = cache_home()
    if IS_PLAIN:
        found = "none: VOLTRADE_PLAIN runs all rules as plain Python"
    elif find_lacking(config.signals):
        found = f"{cache}: not there yet; a new session compiles first, one that comes back begins as plain Python"
    else:
        found = f"{cache}: there"
    return Check("compiled code", found, "a folder that can be written", _can_be_written(cache))


def _ledgers(environment: Mapping[str, str]) -> Check:
    """Return the row about the folder of the ledgers."""
    wanted = "a folder that can be written"
    try:
        folder = accounts_home(environment)
    except SessionError as error:
        return Check("ledgers", str(error), wanted, ok=False)
    return Check("ledgers", str(folder), wanted, _can_be_written(folder))


def _can_be_written(folder: Path) -> bool:
    nearest = next(path for path in (folder, *folder.parents) if path.exists())
    return os.access(nearest, os.W_OK)


def _permission(config: Config, environment: Mapping[str, str]) -> list[Check]:
    """Return rows for missing keys or a missing permission, with what to type; else by what the session may trade."""
    if config.session.mode not in ("demo", "live"):
        return []
    try:
        Credentials.load(environment)
    except ConfigError as error:
        return [Check("keys", f"can't be used: {error}", "those of an account; see the README", ok=False)]
    try:
        permission = permit(config, environment, datetime.now(UTC))
    except ConfigError as error:
        return [Check("permission", f"missing: {error}", ok=False)]
    ceilings = [Check("ceilings", permission.ceilings)] if permission.ceilings else []
    return [Check("permission", permission.by), *ceilings]
