"""The start-up table: endpoint, account, settings and limits of a session, and what prevents its start.

The engine makes it before it sends any order, writes it into `run.json` and the journal, and starts only if every row
is right. `python -m voltrade doctor` prints the table without starting a session, and without the rows of
the account's ledger, which it doesn't open.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from decimal import Decimal
from typing import Any

from voltrade.config import Config
from voltrade.engine.modes import Wiring
from voltrade.engine.notify import Notifier
from voltrade.engine.permission import largest_notional
from voltrade.model import MONEY, Instrument, Snapshot, moment_text, money_text
from voltrade.risk import TIME, CircuitBreaker, distance_label

CLOCK_WITHIN_MS = 1_000
"""Binance refuses requests whose timestamp is further ahead of its time."""


@dataclass(frozen=True, slots=True)
class Check:
    """One row: what was found, what it must be (empty where anything is allowed), and whether it is right."""

    item: str
    found: str
    wanted: str = ""
    ok: bool = True

    def plain(self) -> dict[str, Any]:
        """Return the row as plain values."""
        return asdict(self)


async def preflight(wiring: Wiring) -> list[Check]:
    """Read the account and the market from the exchange, and compare them with the settings.

    With `apply_account_settings`, account settings that differ are set first, if the account has no position or order.

    Raises:
        VenueError: The exchange could not be read.
    """
    config = wiring.config
    checks = [
        Check("endpoint", wiring.endpoint.rest),
        Check("account", wiring.fingerprint),
        Check("allowed by", wiring.allowed_by),
        await _clock(wiring),
    ]
    snapshot = await wiring.gateway.snapshot(config.session.symbol, 0)
    if config.session.apply_account_settings and _differs(snapshot, config) and _is_flat(snapshot):
        await wiring.gateway.apply_account_settings(
            config.session.symbol, config.risk.leverage, config.risk.margin_type
        )
        snapshot = await wiring.gateway.snapshot(config.session.symbol, 0)
    return [*checks, *_account(snapshot, config), *_market(wiring.instrument), *_limits(config)]


def used_limits(config: Config, state: Mapping[str, Any], time: int, quote: str) -> Check:
    """Return the row about the limits that the account's last run has used; the circuit breaker continues from them.

    Args:
        state: Final state of the last run, as returned by `TradingCore.state`.
        time: The time, ms UTC; on a new day the daily limits start again.
        quote: The quote asset.
    """
    breaker = CircuitBreaker.restore(config.risk, state["breaker"])
    breaker.apply_fact(TIME, time)
    holding = [f"holds: {', '.join(breaker.codes)}"] if breaker.codes else []
    used = [f"{code} {distance_label(code, *far, quote)}" for code, far in breaker.distances().items() if far[0] > 0]
    return Check("limits already used", "; ".join([*holding, *used]) or "none")


def notifications(notifier: Notifier) -> Check:
    """Return the row about notifications; a wrong address is reported before it is needed."""
    found = "; ".join([*notifier.kinds, *notifier.problems]) or "none"
    return Check("notifications", found, "addresses that apprise knows", not notifier.problems)


def refused(checks: Iterable[Check]) -> str:
    """Return why the session must not start; empty if it may."""
    return "; ".join(f"{check.item}: must be {check.wanted}, was {check.found}" for check in checks if not check.ok)


async def _clock(wiring: Wiring) -> Check:
    offset = await wiring.rest.clock_offset()
    return Check("clock", f"{offset:+,} ms", f"within {CLOCK_WITHIN_MS:,} ms", abs(offset) <= CLOCK_WITHIN_MS)


def _differs(snapshot: Snapshot, config: Config) -> bool:
    wanted = (False, config.risk.leverage, config.risk.margin_type)
    return (snapshot.hedge_mode, snapshot.leverage, snapshot.margin_type) != wanted


def _is_flat(snapshot: Snapshot) -> bool:
    return not (snapshot.position.quantity or snapshot.orders or snapshot.algo_orders)


def _account(snapshot: Snapshot, config: Config) -> list[Check]:
    risk = config.risk
    mode = "hedge" if snapshot.hedge_mode else "one-way"
    assets = "multi-assets" if snapshot.multi_assets else "single-asset"
    fees = f"taker {_percent(snapshot.taker_fee_e8)}, maker {_percent(snapshot.maker_fee_e8)}"
    open_orders = f"{len(snapshot.orders)} orders, {len(snapshot.algo_orders)} conditional orders"
    return [
        Check("position mode", mode, "one-way", not snapshot.hedge_mode),
        Check("margin mode", assets, "single-asset", not snapshot.multi_assets),
        Check("margin type", snapshot.margin_type, risk.margin_type, snapshot.margin_type == risk.margin_type),
        Check("leverage", f"{snapshot.leverage}", f"{risk.leverage}", snapshot.leverage == risk.leverage),
        Check("fees", fees),
        Check("wallet", f"{_round(money_text(snapshot.wallet))}", "above 0", snapshot.wallet > 0),
        Check("position", f"{snapshot.position.quantity} lots"),
        Check("open orders", open_orders),
    ]


def _market(instrument: Instrument) -> list[Check]:
    filters = (
        f"tick {instrument.tick_size:f}, step {instrument.step_size:f}, "
        f"least notional {_round(money_text(instrument.min_notional))}, "
        f"largest market order {instrument.quantity(instrument.market_max_quantity):f}"
    )
    return [Check("filters", filters), Check("filters from", _with_moment(instrument.source))]


def _limits(config: Config) -> list[Check]:
    risk, session = config.risk, config.session
    loss, drawdown = (
        _round(str(risk.capital * Decimal(str(part))))
        for part in (risk.max_daily_loss_fraction, risk.max_drawdown_fraction)
    )
    return [
        Check("largest notional", f"{_round(f'{largest_notional(config):f}')}"),
        Check(
            "daily loss",
            f"{loss}, less on a day that opens below the capital, "
            f"then {risk.daily_loss_action}, until {risk.daily_loss_resume}",
        ),
        Check(
            "drawdown",
            f"{drawdown}, less where the peak is below the capital, "
            f"then {risk.drawdown_action}, until {risk.drawdown_resume}",
        ),
        Check("losing streak", f"{risk.max_consecutive_losses} round trips, then {risk.consecutive_losses_action}"),
        Check("trades a day", f"{risk.max_trades_per_day} round trips, then {risk.trades_per_day_action}"),
        Check(
            "stop policies",
            f"duration end {session.on_duration_end}, interrupt {session.on_interrupt}, "
            f"notebook lost {session.on_notebook_lost}",
        ),
    ]


def _percent(rate_e8: int) -> str:
    return f"{Decimal(rate_e8) / MONEY * 100:f} %"


def _round(text: str) -> str:
    return f"{Decimal(text):,.2f}"


def _with_moment(source: str) -> str:
    """Return a source with its time, such as `at 1700000000000`, in a readable form."""
    return re.sub(r"(?<= at )\d{13}\b", lambda found: moment_text(int(found[0])), source)
