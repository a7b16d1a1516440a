"""The start-up table: endpoint, account, settings and limits of a session, and what prevents its start.

The engine of a new session makes it before it sends any order, writes it into `run.json` and the journal, and starts
only if every row is right, or as caretaker of a position of ours. One that comes back to its session makes it too, in
`run.json` and beside its trading, and nothing depends on it. `python -m voltrade doctor` prints the table without
starting a session, and without the rows of the account's ledger, which it doesn't open.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from decimal import Decimal
from typing import Any

from voltrade.compiled import cache_home, is_kept
from voltrade.config import Config, Resume, RiskSettings
from voltrade.engine.account_checks import account_checks, contract, position, rights_check
from voltrade.engine.account_settings import mended_refusals, settings_checks
from voltrade.engine.authorisation import largest_notional
from voltrade.engine.checks import Check, rounded
from voltrade.engine.clocks import offset_text
from voltrade.engine.modes import Wiring
from voltrade.engine.notifier import Notifier
from voltrade.engine.order_sizes import simulated_size
from voltrade.exchange.account_facts import symbol_facts
from voltrade.exchange.proxies import without_password
from voltrade.model import MONEY, Instrument, Snapshot, moment_text, money_text
from voltrade.risk import CircuitBreaker, distance_label
from voltrade.runs.ledger_file import FinalState

CLOCK_WITHIN_MS = 1_000
"""Binance refuses requests whose timestamp is further ahead of its time; days and expiries are told by the machine."""
CLOCK_READINGS = 5
"""How often the exchange's time is asked for at most: the difference is exact to half of the time of the answer."""


async def preflight(
    wiring: Wiring,
    last: FinalState | None = None,
    is_new: bool = True,
    snapshot: Snapshot | None = None,
    was_set: bool = False,
) -> list[Check]:
    """Read the account and the market from the exchange, and compare them with the settings. Nothing is changed.

    Args:
        wiring: Exchange and settings of the session.
        last: The state that the account's last run ended in; it explains a position.
        is_new: Whether the run is new. A resumed one trades already while its table is made, so that less is asked.
        snapshot: The account, where it was just read; else it is read now.
        was_set: Whether the account settings have just been set; see `account_settings.set_last`.

    Raises:
        ExchangeError: The exchange could not be read.
    """
    config = wiring.config
    checks = [
        Check("endpoint", wiring.endpoint.rest),
        *_proxy(wiring),
        Check("account", wiring.fingerprint + (f", key from {wiring.key_from}" if wiring.key_from else "")),
        *_permission(wiring),
        await _clock(wiring),
    ]
    checks += [*await _rights(wiring), _compiled(config)] if is_new else []
    snapshot = snapshot or await wiring.gateway.snapshot(config.session.symbol, 0)
    settings = settings_checks(snapshot, config, is_new, was_set)
    checks += [*settings, *_assets_and_fees(snapshot)]
    checks += await _holdings(wiring, snapshot, last, is_new, mended_refusals(settings, snapshot, config))
    return [*checks, *_market(wiring.filters), *limits(config)]


def used_limits(config: Config, state: Mapping[str, Any], time: int, quote: str) -> Check:
    """Return the row about the limits that the account's last run has used; the circuit breaker continues from them.

    Args:
        state: Final state of the last run, as returned by `TradingCore.state`.
        time: The time, ms UTC; on a new day the daily limits start again.
        quote: The quote asset.
    """
    breaker = CircuitBreaker.restore(config.risk, state["breaker"])
    breaker.advance(time)
    holding = [f"holds: {', '.join(breaker.codes)}"] if breaker.codes else []
    used = [f"{code} {distance_label(code, *far, quote)}" for code, far in breaker.distances().items() if far[0] > 0]
    unlike = [text] if (text := CircuitBreaker.unlike(state["breaker"])) else []
    return Check("limits already used", "; ".join([*holding, *used, *unlike]) or "none")


def notifications(notifier: Notifier) -> Check:
    """Return the row about notifications; a wrong address is reported before it is needed."""
    found = "; ".join([*notifier.kinds, *notifier.problems]) or "none"
    return Check("notifications", found, "addresses that apprise knows", not notifier.problems)


def _permission(wiring: Wiring) -> list[Check]:
    """Return the rows about what lets the session trade; a resumed one that may not trade on protects and ends."""
    denied = [Check("may trade on", f"no: {wiring.denied}", "yes", ok=False)] if wiring.denied else []
    ceilings = [Check("ceilings", wiring.ceilings)] if wiring.ceilings else []
    return [Check("allowed by", wiring.allowed_by), *denied, *ceilings]


def _proxy(wiring: Wiring) -> list[Check]:
    proxy = wiring.exchange.proxy_to(wiring.endpoint.rest)
    return [Check("proxy", without_password(proxy))] if proxy else []


async def _rights(wiring: Wiring) -> list[Check]:
    if wiring.config.session.mode != "live":
        return []
    return [await rights_check(wiring.rest, bool(wiring.endpoint.rights), wiring.config)]


def _compiled(config: Config) -> Check:
    """Return the row about where the compiled rules are kept; where they can't be, each engine compiles them anew."""
    is_right = is_kept() or config.session.mode not in ("demo", "live")
    found = f"{cache_home()}{'' if is_kept() else ', which can not be written'}"
    return Check("compiled rules", found, "kept in a folder that can be written (VOLTRADE_CACHE names it)", is_right)


async def _holdings(
    wiring: Wiring, snapshot: Snapshot, last: FinalState | None, is_new: bool, mended: frozenset[int]
) -> list[Check]:
    """Return the rows about symbol and holdings; a simulated account may hold anything."""
    instrument, config = wiring.instrument, wiring.config
    if is_new and config.session.mode in ("demo", "live"):
        return await account_checks(wiring.rest, wiring.filters, snapshot, config, last, mended)
    held = position(instrument.quantity(snapshot.position.quantity), instrument, last)
    asked = list[Check]()
    if is_new:
        told = wiring.tape.get("prices", {}).get(instrument.symbol, "")
        asked = [
            contract(await symbol_facts(wiring.rest, instrument.symbol), config, snapshot.time),
            await simulated_size(wiring.rest, instrument, snapshot, config, told),
        ]
    return [
        *asked,
        Check("wallet", rounded(money_text(snapshot.wallet)), "above 0", snapshot.wallet > 0),
        Check("position", f"{snapshot.position.quantity} lots", is_ours=held.is_ours),
        Check("open orders", f"{len(snapshot.orders)} orders, {len(snapshot.algo_orders)} conditional orders"),
    ]


async def _clock(wiring: Wiring) -> Check:
    """Return the row about the machine's clock, also where the exchange's time counts since it is far off."""
    ahead_ms, took_ms = await _best_clock_reading(wiring)
    wanted = f"within {CLOCK_WITHIN_MS:,} ms: set the time of this machine by NTP"
    is_right = abs(ahead_ms) - took_ms / 2 <= CLOCK_WITHIN_MS
    if is_right and took_ms > CLOCK_WITHIN_MS and not _is_clock_decided(ahead_ms, took_ms):
        found = f"can't be measured: the fastest of {CLOCK_READINGS} answers took {took_ms:,} ms"
        return Check("clock", found, wanted)
    return Check("clock", offset_text(ahead_ms), wanted, is_right)


async def _best_clock_reading(wiring: Wiring) -> tuple[int, int]:
    """Return by how many ms the machine's clock is ahead, and how many the answer took: the first that decides.

    If none does, it is the fastest.
    """
    readings = list[tuple[int, int]]()
    for _ in range(CLOCK_READINGS):
        ahead_ms, took_ms = await wiring.rest.clock_reading()
        readings.append((wiring.clock.corrected_ms + ahead_ms, took_ms))
        if _is_clock_decided(*readings[-1]):
            return readings[-1]
    return min(readings, key=lambda reading: reading[1])


def _is_clock_decided(ahead_ms: int, took_ms: int) -> bool:
    """Whether the clock is right, or wrong, wherever within half of the time of the answer the difference is."""
    return abs(abs(ahead_ms) - CLOCK_WITHIN_MS) >= took_ms / 2


def _assets_and_fees(snapshot: Snapshot) -> list[Check]:
    assets = "multi-assets" if snapshot.multi_assets else "single-asset"
    wanted = "single-asset (Binance: Futures, Preferences, Asset mode)"
    fees = f"taker {_percent(snapshot.taker_fee_e8)}, maker {_percent(snapshot.maker_fee_e8)}"
    return [Check("margin mode", assets, wanted, not snapshot.multi_assets), Check("fees", fees)]


def _market(instrument: Instrument) -> list[Check]:
    filters = (
        f"tick {instrument.tick_size:f}, step {instrument.step_size:f}, "
        f"least notional {rounded(money_text(instrument.min_notional))}, "
        f"largest market order {instrument.quantity(instrument.market_max_quantity):f}"
    )
    return [Check("filters", filters), Check("filters from", _with_moment(instrument.source))]


def limits(config: Config) -> list[Check]:
    """Return the rows about the limits of the settings."""
    risk, session = config.risk, config.session
    loss, drawdown = (
        rounded(str(risk.capital * Decimal(str(part))))
        for part in (risk.max_daily_loss_fraction, risk.max_drawdown_fraction)
    )
    return [
        Check("largest notional", f"{rounded(f'{largest_notional(config):f}')}"),
        Check(
            "daily loss",
            f"{loss}, less on a day that opens below the capital, "
            f"then {risk.daily_loss_action}, {_until(risk.daily_loss_resume, risk)}",
        ),
        Check(
            "drawdown",
            f"{drawdown}, less where the peak is below the capital, "
            f"then {risk.drawdown_action}, {_until(risk.drawdown_resume, risk)}",
        ),
        Check(
            "losing streak",
            f"{risk.max_consecutive_losses} round trips, then {risk.consecutive_losses_action}, "
            f"{_until(risk.consecutive_losses_resume, risk)}",
        ),
        Check(
            "trades a day",
            f"{risk.max_trades_per_day} round trips, then {risk.trades_per_day_action}, "
            f"{_until(risk.trades_per_day_resume, risk)}",
        ),
        Check(
            "stop policies",
            f"duration end {session.on_duration_end}, interrupt {session.on_interrupt}, "
            f"notebook lost {session.on_notebook_lost}",
        ),
    ]


def _until(resume: Resume, risk: RiskSettings) -> str:
    """Return until when a circuit breaker rule holds, as a person says it."""
    if resume == "after_seconds":
        return f"for {risk.resume_after_s:g} s"
    return {"next_utc_day": "until 00:00 UTC", "person": "until `ctl resume`"}[resume]


def _percent(rate_e8: int) -> str:
    return f"{Decimal(rate_e8) / MONEY * 100:f} %"


def _with_moment(source: str) -> str:
    """Return a source with its time, such as `at 1700000000000`, in a readable form."""
    return re.sub(r"(?<= at )\d{13}\b", lambda found: moment_text(int(found[0])), source)
