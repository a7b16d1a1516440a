"""The check itself: looks, then trades the smallest order, cleans up whatever fails, and keeps what it saw.

It needs an account with nothing open, takes the account's lock so that no session trades meanwhile, and refuses to send
an order while a row of the start-up table is wrong.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import secrets
import time
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from contextlib import AsyncExitStack, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from voltrade.background import background
from voltrade.config import Config
from voltrade.engine.account_history import last_final_state, open_ledger
from voltrade.engine.account_pin import hide_accounts, pin_checks
from voltrade.engine.account_settings import set_last
from voltrade.engine.checks import Check
from voltrade.engine.demo_check import market, money, orders, private_stream, stops
from voltrade.engine.demo_check.context import CEILING, CheckContext
from voltrade.engine.demo_check.ending import run_to_the_end
from voltrade.engine.demo_check.frames import FrameRecord
from voltrade.engine.demo_check.passed import account_kind, exchange_version, keep_passed
from voltrade.engine.demo_check.report import Report, Row
from voltrade.engine.demo_check.waits import WaitNotice
from voltrade.engine.demo_check.watcher import Watcher
from voltrade.engine.modes import Wiring, refuse_lockstep, wire
from voltrade.engine.permission import permit
from voltrade.engine.preflight import preflight
from voltrade.errors import ConfigError, SessionError
from voltrade.exchange.account_facts import account_facts, symbol_facts
from voltrade.exchange.client import recorded_by
from voltrade.model import Snapshot
from voltrade.runs.ledger_file import FinalState

log = logging.getLogger(__name__)

FRAMES, REPORT, VERDICTS = "frames.jsonl", "report.json", "verdicts.md"
"""Files of a check in its folder."""
REHEARSAL = {"speed": 1.0, "begin_s": 600.0, "mark_interval_s": 1}
"""Parameters of the simulated venue on which mode `sim` rehearses the check."""


def settings_of(config: Config) -> Config:
    """Return the settings of a check: a simulated venue plays by the wall clock.

    Raises:
        ConfigError: The mode has no account at an exchange.
    """
    session = config.session
    if session.mode == "paper":
        raise ConfigError("mode: must be demo, live, or sim for a rehearsal, was paper, which has no account to check")
    return config.changed(**REHEARSAL) if session.mode == "sim" else config


async def check_exchange(
    config: Config,
    environment: Mapping[str, str],
    folder: Path,
    on_row: Callable[[Row], None] = lambda row: None,
    on_address: Callable[[str], None] = lambda address: None,
    on_wait: Callable[[str], None] = lambda text: None,
) -> Report:
    """Check the exchange of a mode by real orders of the least size; return what was found.

    A check that is cancelled ends early: it cancels and closes what it sent, keeps its record, and its last row says
    what is left.

    Args:
        config: Settings of the sessions that are to trade there.
        environment: Has the keys, such as `os.environ`.
        folder: New or empty, for the record: every request, answer and frame without secrets, rows and verdicts.
        on_row: Called with each row as it comes.
        on_address: Called with the IP address from which we come, if the exchange tells it; the record doesn't have it.
        on_wait: Called with what is waited for, where no row comes for 2 s.

    Raises:
        ConfigError: Keys or permission are missing, or the venue is in lockstep; nothing was sent.
        SessionError: A session trades the account, or the folder isn't empty.
        ExchangeError: The exchange can't be reached.
        CancelledError: It was cancelled before the exchange had answered.
    """
    config = settings_of(config)
    if config.session.mode != "sim":
        permit(config, environment, datetime.now(UTC))
    refuse_used(folder)
    await refuse_lockstep(config)
    notice = WaitNotice(on_wait, on_row)
    async with AsyncExitStack() as held:
        held.callback(background(notice.run(), lambda error: None).cancel)
        wiring, record = await _reach(config, folder, environment, held)
        held.push_async_callback(wiring.close)
        if (ledger := open_ledger(wiring, folder)) is not None:
            held.callback(ledger.close)
        _allow_streams(wiring)
        report = Report(wiring.endpoint.rest, wiring.instrument.symbol, exchange_version(), begun=wiring.clock())
        stamp = f"{int(time.time()):x}{secrets.token_hex(2)}"
        context = CheckContext(wiring, report, record, notice.on_row, on_address, stamp, notice.begin_part)
        await _do(context, last_final_state(ledger, "", folder), folder, environment)
    return report


async def _do(context: CheckContext, last: FinalState | None, folder: Path, environment: Mapping[str, str]) -> None:
    """Do the check; whatever ends it, rows and verdicts are written."""
    try:
        async with context.part("start"):
            await _begin(context, last, environment)
            await _check(context)
    except asyncio.CancelledError:
        await _to_the_end(_tell_interrupted(context))
    finally:
        _save(context, folder, environment)


def run_check(
    config: Config,
    environment: Mapping[str, str],
    folder: Path,
    on_row: Callable[[Row], None] = lambda row: None,
    on_address: Callable[[str], None] = lambda address: None,
    on_wait: Callable[[str], None] = lambda text: None,
) -> Report:
    """Run `check_exchange` in a process of its own; signals that would end it only ask for its end.

    Raises:
        SessionError: It was interrupted before the exchange had answered.
    """

    try:
        return run_to_the_end(check_exchange(config, environment, folder, on_row, on_address, on_wait))
    except asyncio.CancelledError:
        raise SessionError("interrupted before the check began: nothing was sent, nothing is open") from None


def refuse_used(folder: Path) -> None:
    """Refuse a folder that has something else in it; a first try that failed leaves none, or an empty one.

    Raises:
        SessionError: It is no folder, or not empty.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise SessionError(f"{folder}: must be a new or an empty folder for the check's record, holds something else")


async def _reach(
    config: Config, folder: Path, environment: Mapping[str, str], held: AsyncExitStack
) -> tuple[Wiring, FrameRecord]:
    """Connect, and record every request; where the exchange can't be reached nothing is left of the folder."""
    is_new = not folder.exists()
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    record = FrameRecord(folder / FRAMES)
    held.callback(record.close)
    held.enter_context(recorded_by(record.on_answer))
    try:
        return await wire(config, folder, environment), record
    except BaseException:
        record.close()
        (folder / FRAMES).unlink()
        with suppress(OSError):  # the log of a rehearsal's venue stays
            folder.rmdir() if is_new else None
        raise


def _allow_streams(wiring: Wiring) -> None:
    """Let the check dial the other hosts of the exchange's websockets too."""
    endpoint = wiring.endpoint
    known = (endpoint.rest, endpoint.stream, endpoint.rights, *private_stream.stream_hosts(endpoint))
    wiring.exchange.pin(filter(None, known))


async def _begin(context: CheckContext, last: FinalState | None, environment: Mapping[str, str]) -> None:
    """Make the start-up table, the first rows of the check; only a session's start keeps account and host."""
    hide_accounts(context.wiring, environment)

    async def table(was_set: bool) -> list[Check]:
        checks = await preflight(context.wiring, last, was_set=was_set)
        return [*checks, *pin_checks(context.wiring, environment)]

    for row in await set_last(context.wiring, table):
        context.report.add(row)
        context.on_row(context.report.rows[-1])


async def _check(context: CheckContext) -> None:
    rest = context.wiring.rest
    snapshot = await rest.snapshot(context.symbol, 0)
    context.report.kind = account_kind(snapshot, await symbol_facts(rest, context.symbol), context.instrument)
    context.last_trade_id = max((fill.trade_id for fill in snapshot.fills), default=0)
    context.wallet_before = await context.wallet()
    try:
        await _look(context)
        if await _may_trade(context, snapshot):
            await _trade(context)
    finally:
        for listener in (*context.users, *([context.market] if context.market else [])):
            await listener.close()


async def _look(context: CheckContext) -> None:
    """Look at what can be seen without an order."""
    async with context.part("address", "differs"):
        await market.check_address(context)
    async with context.part("filters"):
        market.check_filters(context)
    async with context.part("fee burn", "differs"):
        burn = await context.read("fapiPrivateGetFeeBurn")
        context.row("account", "fees in BNB", "", "yes" if burn.get("feeBurn") else "no")
    async with context.part("streams"):
        own, *others = private_stream.stream_hosts(context.wiring.endpoint)
        await asyncio.gather(
            market.check_streams(context, own, True), *(market.check_streams(context, host, False) for host in others)
        )
    async with context.part("minute", "differs"):
        await market.check_minute(context)
    async with context.part("unknown orders"):
        await market.check_symbol_lookup(context)
    async with context.part("sizes"):
        await orders.check_sizes(context)


async def _may_trade(context: CheckContext, snapshot: Snapshot) -> bool:
    """Whether orders may be sent: the start-up table is right, nothing is open, and no order is above the ceiling."""
    wrong = [row.item for row in context.report.rows if row.part == "account" and row.verdict == "failed"]
    facts = await account_facts(context.wiring.rest)
    is_open = bool(facts.positions or facts.orders or snapshot.position.quantity)
    least, most = await context.least_notional(), context.largest_notional
    reasons = [
        *([f"mend first: {', '.join(wrong)}"] if wrong else []),
        *(["the account has a position or orders"] if is_open else []),
        *(
            [f"the smallest order of the check is worth {least:,.2f}, above {most:,.2f}, {CEILING}"]
            if least > most
            else []
        ),
    ]
    found = f"no: {'; '.join(reasons)}" if reasons else "yes"
    return context.row("account", "orders may be sent", "yes", found, not reasons)


def _steps() -> list[tuple[str, Callable[[CheckContext], Awaitable[None]]]]:
    """Return the parts that send orders, in turn."""
    return [
        ("private stream", private_stream.open_private),
        ("far order", orders.check_far_order),
        ("market order", orders.buy_least),
        ("countdown", orders.check_countdown),
        ("stops", stops.check_stops),
        ("flat again", money.check_flat),
        ("wallet", money.check_wallet),
        ("paths", private_stream.check_paths),
        ("listen key", private_stream.check_listen_key),
        ("ids", market.check_ids),
    ]


async def _trade(context: CheckContext) -> None:
    """Send the orders; whatever happens, nothing is left open, also if this process is killed."""
    watcher = None
    async with context.part("second process"):
        watcher = await Watcher.start(context.wiring.exchange, context.wiring.endpoint, context.terms)
    if watcher is None:
        return
    context.sent.tell, context.sent.is_watched = watcher.tell, watcher.is_there
    context.clean_up.hint = f"; only `kill -KILL {os.getpid()} {watcher.pid}` ends this"
    try:
        for name, do in _steps():
            if not watcher.is_there():
                context.row("money", "second process", "alive", "it has died: nothing more is tried", ok=False)
                break
            async with context.part(name):
                await do(context)
        context.report.has_traded = context.lots > 0
        if context.lots and any(row.item == "key rights" and "any address" in row.found for row in context.report.rows):
            context.answer("key without addresses", "it can: the market order was accepted")
    finally:
        if await _to_the_end(_clean_up(context, watcher)):
            raise asyncio.CancelledError


async def _to_the_end(work: Coroutine[Any, Any, None]) -> bool:
    """Do work to its end; return whether this task was cancelled meanwhile, as by a second Ctrl-C."""
    task = asyncio.create_task(work)
    is_canceled = False
    while not task.done():
        try:
            await asyncio.shield(task)
        except asyncio.CancelledError:
            is_canceled = True
    return is_canceled


async def _clean_up(context: CheckContext, watcher: Watcher) -> None:
    async with context.part("clean-up"):
        await context.clean_up.run()
        await watcher.dismiss()
        if others := await context.clean_up.of_others():
            found = f"left as it is: {others}"
            context.row("money", "clean-up", "an account that nobody else trades", found, ok=False)


async def _tell_interrupted(context: CheckContext) -> None:
    """Add the last row of a check that was interrupted."""
    left = await money.what_is_left(context)
    found = f"the account still has {left}: close it at Binance, in the app" if left else "nothing is left open"
    context.row("money", "interrupted", "a check that comes to its end", found, ok=False)


def _save(context: CheckContext, folder: Path, environment: Mapping[str, str]) -> None:
    """Write the rows and verdicts, and keep a passed check for mode `live`."""
    report, wiring = context.report, context.wiring
    if not context.record.is_complete:
        context.row("record", "record", "every frame and answer", "incomplete: it could not be written", ok=False)
    _write(folder / REPORT, json.dumps(wiring.exchange.redacted(report.plain()), indent=1))
    _write(folder / VERDICTS, wiring.exchange.redact(report.verdicts()))
    if report.passed and wiring.endpoint.name in ("demo", "live"):
        facts = {"version": report.version, "kind": report.kind, "time": wiring.clock(), "endpoint": report.endpoint}
        keep_passed({**facts, "mode": wiring.config.session.mode, "folder": folder.name}, environment)


def _write(path: Path, text: str) -> None:
    try:
        with os.fdopen(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC, 0o600), "w") as file:
            file.write(text)
    except OSError as error:
        raise SessionError(f"{path}: can't be written: {error.strerror}") from None
