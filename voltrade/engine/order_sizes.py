"""The rows of the start-up table about the session's own orders: its least and its largest; none is placed."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace
from decimal import Decimal

from voltrade.config import Config
from voltrade.engine.account_settings import MARGIN_REFUSALS
from voltrade.engine.checks import Check, rounded
from voltrade.errors import ExchangeError
from voltrade.exchange.account_facts import check_order, least_lots, mark_price
from voltrade.exchange.rest import BinanceRestClient
from voltrade.model import Instrument, Snapshot
from voltrade.risk import limits_from_settings, new_gate_inputs, position_size, shortest_stop_ticks

LEAST_ORDER, LARGEST_ORDER = "smallest order", "largest order"
"""The rows about orders, which the exchange checks where it has the account, and doesn't place."""


async def order_checks(
    rest: BinanceRestClient, instrument: Instrument, snapshot: Snapshot, config: Config, mended: Collection[int]
) -> list[Check]:
    """Let the exchange check the least and the largest order of the session.

    Args:
        rest: Client of the account.
        instrument: Filters of the symbol.
        snapshot: The account as it was just read.
        config: Settings of the session.
        mended: Codes of refusals that end with the account settings which the start will set.

    Raises:
        ExchangeError: The mark price could not be read.
    """
    price = await mark_price(rest, instrument.symbol)
    least, largest = least_lots(instrument, price), largest_lots(instrument, snapshot, config, price)
    excused = MARGIN_REFUSALS if snapshot.position.quantity else ()
    rows = [await _checked(LEAST_ORDER, rest, instrument, min(least, largest or least), mended, excused)]
    if rows[0].item == "key":
        return rows  # whatever is asked
    if not largest:
        return [*rows, _too_small(instrument, price)]
    if snapshot.position.quantity:  # which has the margin
        return rows
    return [*rows, await _checked(LARGEST_ORDER, rest, instrument, largest, mended)]


async def simulated_size(
    rest: BinanceRestClient, instrument: Instrument, snapshot: Snapshot, config: Config, told: str = ""
) -> Check:
    """Return the row about the largest order at a simulated account; it prevents no start.

    Args:
        rest: Client of the market.
        instrument: Filters of the symbol.
        snapshot: The account as it was just read.
        config: Settings of the session.
        told: The price as the simulated venue tells it, also before its first trade; else the mark price is asked for.
    """
    try:
        price = Decimal(told or 0) or await mark_price(rest, instrument.symbol)
    except ExchangeError as error:
        return Check(LARGEST_ORDER, f"unknown: {error}")
    return size(instrument, snapshot, config, price)


def size(instrument: Instrument, snapshot: Snapshot, config: Config, price: Decimal) -> Check:
    """Return the row about the largest order at a price; where it is too small for any, no entry will be made."""
    lots = largest_lots(instrument, snapshot, config, price)
    if not lots:
        short = _too_small(instrument, price)
        return replace(short, found=f"none, so that no entry will be made: {short.found}", ok=True, is_warning=True)
    quantity = instrument.quantity(lots)
    worth = f"{rounded(quantity * price)} {instrument.quote_asset}"
    return Check(LARGEST_ORDER, f"{quantity:f} {instrument.base_asset}, {worth}, with the shortest stop")


def largest_lots(instrument: Instrument, snapshot: Snapshot, config: Config, price: Decimal) -> int:
    """Return the largest entry that the session can make, in lots: with the shortest stop that is allowed.

    It is the size that the gates would find (`risk.position_size`); 0 if it is below the symbol's least order. An open
    position leaves its margin out of account.
    """
    limits, inputs = limits_from_settings(config, instrument, snapshot.taker_fee_e8), new_gate_inputs()
    if snapshot.max_notional and snapshot.leverage == config.risk.leverage:  # else it is another leverage's
        limits[0]["bracket_notional"] = snapshot.max_notional
    row = inputs[0]
    row["price"] = int(price / instrument.tick_size)
    row["wallet"] = snapshot.wallet
    row["available"] = snapshot.wallet if snapshot.position.quantity else snapshot.available
    row["stop_ticks"] = shortest_stop_ticks(inputs, limits)
    return int(position_size(inputs, limits))


def _too_small(instrument: Instrument, price: Decimal) -> Check:
    quantity = instrument.quantity(least_lots(instrument, price, Decimal(1)))
    least = f"{quantity:f} {instrument.base_asset}, {rounded(quantity * price)} {instrument.quote_asset}"
    wanted = f"at least {least}: -p capital MORE, or more risk_fraction, max_notional_multiple or leverage"
    return Check(LARGEST_ORDER, "less, by capital, risk and margin, whatever the stop", wanted, ok=False)


async def _checked(
    item: str,
    rest: BinanceRestClient,
    instrument: Instrument,
    lots: int,
    mended: Collection[int],
    excused: Collection[int] = (),
) -> Check:
    """Return the row about an order; refusals with an excused code are told, and explained by the open position."""
    response = await check_order(rest, instrument, lots)
    what = f"{instrument.quantity(lots):f} {instrument.base_asset}, checked by {rest.exchange_name} and not placed"
    if response.status == 200:
        return Check(item, what)
    if response.code in mended:
        return Check(item, f"{what}, asked again once the account is set", will_be_set=True)
    if response.code in excused:
        return Check(item, f"{what}: {response.code}, since the open position has the margin")
    remedy = rest.remedy(response)
    refused = f"refused with {response.code or f'HTTP {response.status}'}: {response.text[:120]}"
    found = f"{remedy.says}: {refused}" if remedy.says else refused
    return Check("key" if remedy.item == "key" else item, found, remedy.wanted, ok=False)
