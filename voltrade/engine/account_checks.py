"""The rows of the start-up table about account, key and symbol at Binance or its demo.

Each row that prevents a start names the setting, or the page of Binance's app, that helps. Only an order that Binance
checks and doesn't place is sent (`order/test`).
"""

from __future__ import annotations

from collections.abc import Collection
from decimal import Decimal

from voltrade.config import Config, milliseconds
from voltrade.engine.checks import Check, rounded, unchecked
from voltrade.engine.order_sizes import order_checks
from voltrade.errors import ExchangeError
from voltrade.exchange.account_facts import (
    AccountFacts,
    KeyRights,
    SymbolFacts,
    account_facts,
    key_rights,
    symbol_facts,
)
from voltrade.exchange.remedies import FUTURES_PREFERENCES, KEY_PAGE
from voltrade.exchange.rest import BinanceRestClient
from voltrade.exchange.trading_hours import SHUT, UNKNOWN
from voltrade.model import NEVER, OUR_ORDERS, Instrument, Purpose, Snapshot, moment_text, money_text
from voltrade.orders.order_states import DONE
from voltrade.runs.ledger_file import FinalState
from voltrade.saved_account import BROKEN
from voltrade.symbol_filters import TRADING

CREDITS = ("BNFCR",)
"""Assets of an account in credits trading mode."""


async def account_checks(
    rest: BinanceRestClient,
    instrument: Instrument,
    snapshot: Snapshot,
    config: Config,
    last: FinalState | None,
    mended: Collection[int] = (),
) -> list[Check]:
    """Read what the account and its key may do, and compare it with what a session needs.

    Args:
        rest: Client of the account.
        instrument: Filters of the symbol.
        snapshot: The account as it was just read.
        config: Settings of the session.
        last: The state that the account's last run ended in; it explains a position.
        mended: Codes of refusals that end with the account settings which the start will set.

    Raises:
        ExchangeError: The account could not be read.
    """
    facts = await account_facts(rest)
    symbol = await symbol_facts(rest, instrument.symbol)
    return [
        contract(symbol, config, snapshot.time),
        Check("may trade", _yes(facts.can_trade), f"yes; see {FUTURES_PREFERENCES}", facts.can_trade),
        *await order_checks(rest, instrument, snapshot, config, mended),
        assets(facts),
        wallet(snapshot, config),
        position(facts.positions.get(instrument.symbol, Decimal(0)), instrument, last),
        open_orders(facts, instrument.symbol, last),
        others(facts, instrument.symbol),
    ]


async def rights_check(rest: BinanceRestClient, is_told: bool, config: Config) -> Check:
    """Return the row about the key's rights; only Binance itself tells them, not its demo."""
    if not is_told:
        return Check("key rights", "not told by this exchange; an address list at Binance is advised")
    is_waived = config.session.allow_unchecked
    try:
        return rights(await key_rights(rest))
    except ExchangeError as error:
        return unchecked("key rights", f"unknown: {error}", "readable, or -p allow_unchecked True", is_waived)


def rights(key: KeyRights) -> Check:
    """Return the row about the rights of a key."""
    wrong = [
        *(["it may withdraw"] if key.withdraws else []),
        *([] if key.reads else ["it may not read"]),
        *([] if key.trades_futures else ["it may not trade futures"]),
        *(["the account has portfolio margin"] if key.portfolio_margin else []),
    ]
    advice = [
        *_advice(key.has_address_list, False, "any address may use it: list yours", "an address list"),
        *_advice(key.transfers, True, "it may transfer between accounts", "transfers"),
    ]
    found = "; ".join([*wrong, *advice]) or "futures only, from listed addresses"
    return Check("key rights", found, f"reading and futures, and no withdrawal: {KEY_PAGE}", not wrong)


def _advice(told: bool | None, bad: bool, advice: str, what: str) -> list[str]:
    """Return an advice where a right is as it should not be, or isn't told; it prevents no start."""
    if told is None:
        return [f"unchecked: {what}, which Binance doesn't tell"]
    return [advice] if told is bad else []


CONTRACT_TYPES = ("PERPETUAL", "CURRENT_QUARTER", "NEXT_QUARTER", "TRADIFI_PERPETUAL", "")
"""Contract types that are traded; the demo may name none. An unknown one may be delivered or margined otherwise."""


def contract(symbol: SymbolFacts, config: Config, now: int) -> Check:
    """Return the row about the symbol: its kind, whether it trades, and whether it still does at the session's end."""
    is_perpetual = symbol.delivery == 0 or symbol.delivery >= FAR_FUTURE
    outlives = is_perpetual or surely_flat_at(config, now) < symbol.delivery
    found = f"{symbol.contract_type or 'unknown'}, {symbol.status}"
    found += f" until {moment_text(symbol.status_until)}" if symbol.status_until else ""
    found += "" if is_perpetual else f", delivered or delisted at {moment_text(symbol.delivery)}"
    found += f", reduce-only on the side {symbol.reduce_only_side}" if symbol.reduce_only_side else ""
    ok = symbol.contract_type in CONTRACT_TYPES and symbol.status == TRADING and outlives
    return Check("contract", found, _wanted(symbol), ok and not symbol.reduce_only_side)


def _wanted(symbol: SymbolFacts) -> str:
    """Return what a symbol would have to be, by the first rule that it breaks."""
    if symbol.contract_type not in CONTRACT_TYPES:
        return f"of a known type ({', '.join(filter(None, CONTRACT_TYPES))})"
    if symbol.reduce_only_side:
        return "open for entries on both sides"
    if symbol.status == SHUT:
        return "TRADING: start when the market that it follows is open"
    if symbol.status == UNKNOWN:
        return "TRADING: the exchange must tell the hours of the market that it follows (tradingSchedule)"
    if symbol.status != TRADING:
        return "TRADING: choose another symbol, or another time"
    return (
        "TRADING, and delivered after the session is surely flat: set duration_s so that it ends before, "
        f"with on_duration_end flatten and {BEGIN_AND_CLOSE_S // 60} minutes to spare"
    )


BEGIN_AND_CLOSE_S = 600
"""How much longer than `duration_s` a session may have a position: it begins to count after earlier trades are loaded,
and closes the position at its end."""


def surely_flat_at(config: Config, now: int) -> int:
    """Return when a session that starts now is surely flat, ms UTC; NEVER where its settings don't make it so.

    After `carry_on` it trades on, and after `protect` its position stays, with stop and take-profit.
    """
    session = config.session
    if not session.duration_s or session.on_duration_end != "flatten":
        return NEVER
    return now + milliseconds(session.duration_s + BEGIN_AND_CLOSE_S)


FAR_FUTURE = 4_000_000_000_000
"""A delivery after this time, in 2096, stands for none."""


def assets(facts: AccountFacts) -> Check:
    """Return the row about the account's assets."""
    found = ", ".join(f"{name} {amount:f}" for name, amount in facts.assets.items()) or "none"
    has_credits = any(name in facts.assets for name in CREDITS)
    return Check(
        "assets", found, f"those of an account without credits trading: {FUTURES_PREFERENCES}", not has_credits
    )


def wallet(snapshot: Snapshot, config: Config) -> Check:
    """Return the row about the wallet: it must hold the capital, and a flat account must have it free."""
    capital = config.risk.capital
    held, free = (Decimal(money_text(amount)) for amount in (snapshot.wallet, snapshot.available))
    is_flat = snapshot.position.quantity == 0
    found = rounded(held) if free >= held else f"{rounded(held)}, {rounded(free)} of it available"
    ok = held >= capital and (free >= capital or not is_flat)
    return Check("wallet", found, f"at least the capital of {rounded(capital)}: deposit, or -p capital LESS", ok)


def position(held: Decimal, instrument: Instrument, last: FinalState | None) -> Check:
    """Return the row about the symbol's position: flat, or what the account's last run left, or a part of it.

    More on the same side is the last run's too, as far as anybody knows, so that a session must look after it; and so
    is any position where what the last run left can't be read.
    """
    try:
        most = _most_left(instrument, last)
        left = f"the {most:f} that the last session left"
    except BROKEN:
        most, left = held, "what the last session left, which can't be read"
    is_ours = held * most > 0
    ok = held == 0 or (is_ours and abs(held) <= abs(most))
    wanted = f"flat, or at most {left}: close it at Binance, in the app"
    return Check("position", f"{held:f} {instrument.base_asset}", wanted, ok, is_ours)


def _most_left(instrument: Instrument, last: FinalState | None) -> Decimal:
    """Return the most that the account's last run can have left, signed: its entries may have filled.

    Its quantities are in the step that it counted in.

    Raises:
        BROKEN: The state can't be read.
    """
    saved = last.state["symbol_states"].get(instrument.symbol) if last is not None and last.state is not None else None
    if saved is None:
        return Decimal()
    opened = saved["orders"]["open_position"] or {"orders": []}
    entries = [order for order in opened["orders"] if order["purpose"] == Purpose.ENTRY and order["state"] not in DONE]
    unfilled = (int(each["side"] * (each["quantity"] - each["filled"])) for each in entries)
    step = Decimal(saved.get("step_size", instrument.step_size))
    return (int(saved["quantity"]) + sum(unfilled)) * step


def open_orders(facts: AccountFacts, symbol: str, last: FinalState | None) -> Check:
    """Return the row about open orders of the symbol: those of another program or person prevent the start.

    Ours which the state of the last session lacks, such as one that an earlier one left behind, are told: for a session
    they aren't its own, so that it enters nothing while they are open. Without a state nothing is told of them: they
    may be those of a session that runs.
    """
    here = [name for where, name in facts.orders if where == symbol]
    foreign = [name for name in here if not name.startswith(OUR_ORDERS)]
    unknown = [name for name in here if name not in _orders_left(symbol, last)]
    if not foreign and unknown and last is not None and last.state is not None:
        found = f"{len(here)}, left by an earlier session and unknown to the last: {', '.join(unknown[:3])}"
        return Check("open orders", found, f"known, for entries: {CANCEL_THEM}", is_warning=True)
    found = f"{len(here)}" + (f", not ours: {', '.join(foreign[:3])}" if foreign else "")
    return Check("open orders", found, f"ours only: {CANCEL_THEM}", not foreign)


CANCEL_THEM = "cancel the others at Binance, in the app"


def _orders_left(symbol: str, last: FinalState | None) -> set[str]:
    """Return the names of the orders that the last run's state has; none where it can't be read."""
    try:
        opened = ((last and last.state) or {})["symbol_states"][symbol]["orders"]["open_position"] or {"orders": []}
        return {str(order["id"]) for order in opened["orders"]}
    except BROKEN:
        return set()


def others(facts: AccountFacts, symbol: str) -> Check:
    """Return the row about other symbols: a session needs an account of its own."""
    held = [f"{amount:f} {where}" for where, amount in facts.positions.items() if where != symbol]
    ordered = [f"an order in {where}" for where, _ in facts.orders if where != symbol]
    found = ", ".join([*held, *ordered][:4]) or "nothing"
    wanted = "nothing: close it, or trade in a sub-account of its own"
    return Check("other symbols", found, wanted, not (held or ordered))


def _yes(holds: bool) -> str:
    return "yes" if holds else "no"
