"""Position mode, margin type and leverage: their rows of the start-up table, and how a start sets them, last of all."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable

from voltrade.config import Config
from voltrade.engine.checks import Check, refused
from voltrade.engine.modes import Wiring
from voltrade.model import Snapshot

MARGIN_REFUSALS = (-2019, -2027, -2028)
"""Refusals of an order because its margin is too small, or because the position would be too large."""
MODE, MARGIN_TYPE, LEVERAGE = ROWS = ("position mode", "margin type", "leverage")
"""The settings' rows."""


def settings_checks(snapshot: Snapshot, config: Config, is_new: bool, was_set: bool) -> list[Check]:
    """Return the rows about the account settings; those that the start will set are right.

    Args:
        snapshot: The account as it was just read.
        config: Settings of the session.
        is_new: Whether the run is new; nothing is set for a resumed one.
        was_set: Whether the settings have just been sent, so that none may differ any more.
    """
    risk = config.risk
    pairs = (
        ("hedge" if snapshot.hedge_mode else "one-way", "one-way"),
        (snapshot.margin_type, risk.margin_type),
        (f"{snapshot.leverage}", f"{risk.leverage}"),
    )
    is_flat = not (snapshot.position.quantity or snapshot.orders or snapshot.algo_orders)
    will_set = config.session.apply_account_settings and is_flat and is_new and not was_set
    helps = "-p apply_account_settings True sets it" if is_flat else "close position and orders, then set it"
    helps = "the exchange has just accepted that" if was_set else helps
    return [
        Check(item, f"{found}, will be set to {wanted}", wanted, will_be_set=True)
        if found != wanted and will_set
        else Check(item, found, f"{wanted} ({helps})", found == wanted)
        for item, (found, wanted) in zip(ROWS, pairs, strict=True)
    ]


def mended_refusals(checks: Iterable[Check], snapshot: Snapshot, config: Config) -> frozenset[int]:
    """Return the refusals of an order that end once the start has set what differs.

    More leverage needs less margin (-2019, -2028), less leverage allows a larger position (-2027); not the reverse.
    """
    by_leverage = (-2019, -2028) if config.risk.leverage > snapshot.leverage else (-2027,)
    ended = {MODE: (-4061,), LEVERAGE: by_leverage}
    return frozenset(code for check in checks if check.will_be_set for code in ended.get(check.item, ()))


async def set_last(wiring: Wiring, table: Callable[[bool], Awaitable[list[Check]]]) -> list[Check]:
    """Make the start-up table; if only account settings stand against the start, set them and make it again.

    Args:
        wiring: Exchange and settings of the session.
        table: Makes the whole table; its argument tells whether the settings have just been set.

    Raises:
        ExchangeError: The account could not be read, or a setting was refused.
    """
    checks = await table(False)
    if refused(checks) or not any(check.will_be_set for check in checks):
        return checks
    config = wiring.config
    await wiring.gateway.apply_account_settings(config.session.symbol, config.risk.leverage, config.risk.margin_type)
    return await table(True)
