"""The whole start-up table of a session: exchange and account, the last `demo_check`, the ledger, and notifications."""

from __future__ import annotations

import os

from voltrade.engine.account_history import ledger_checks
from voltrade.engine.account_pin import keep_pin, pin_checks
from voltrade.engine.account_settings import set_last
from voltrade.engine.checks import Check, refused
from voltrade.engine.demo_check.passed import check_demo_check
from voltrade.engine.modes import Wiring
from voltrade.engine.notifier import Notifier
from voltrade.engine.preflight import notifications, preflight
from voltrade.model import Snapshot
from voltrade.runs.ledger import Ledger
from voltrade.runs.ledger_file import FinalState


async def start_checks(
    wiring: Wiring,
    ledger: Ledger | None,
    last: FinalState | None,
    notifier: Notifier,
    is_new: bool,
    snapshot: Snapshot | None = None,
) -> list[Check]:
    """Return all rows. Account settings are set only if every other row is right; see `account_settings.set_last`.

    The account and host of a new run whose rows are all right are kept as those of its mode.

    Args:
        wiring: Exchange and settings of the session.
        ledger: Ledger of the account; None where it needs none.
        last: The state that the account's last run ended in.
        notifier: Sends the session's notifications.
        is_new: Whether the run is new.
        snapshot: The account, where it was just read.

    Raises:
        ExchangeError: The exchange could not be read, or refused a setting.
        OSError: The account of the mode could not be kept; settings of the account may have been changed.
    """

    async def table(was_set: bool) -> list[Check]:
        checks = await preflight(wiring, last, is_new, snapshot, was_set)
        if is_new:
            checks += [*pin_checks(wiring, os.environ), *await check_demo_check(wiring, os.environ)]
        return [*checks, *ledger_checks(ledger, last, is_new, wiring), notifications(notifier)]

    checks = await set_last(wiring, table)
    if is_new and not refused(checks):
        keep_pin(wiring, os.environ)
    return checks
