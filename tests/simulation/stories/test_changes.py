"""The exchange changes under a session: filters, leverage bracket, the account's settings, the symbol's status.

Each while flat, while a position is held, and with the engine killed right after it. It is told within a minute, and
lived with: what is sent obeys it, entries stop where they must, and the position is covered and left.

No event tells of them: of leverage and margin type it is lost, of the others Binance sends none.
"""

from __future__ import annotations

from decimal import Decimal
from typing import Any, NamedTuple

import pytest

from simulation.evidence import Evidence
from simulation.scenario import at
from simulation.stories.claims import (
    alerts,
    entries,
    fills,
    is_left_in_order,
    money,
    placed,
    questions,
    refused,
    round_trips,
    wallet_change,
    when,
)
from simulation.stories.plots import SYMBOL, answers, rarely, replacing, story
from voltrade.orders.order_states import FILTER_CODES

SEEN_S = 62.0
"""A minute, and the time of a request."""
CHANGED_S = 10.0
NEVER_TOLD = at(0, "drop", on="user ACCOUNT_CONFIG_UPDATE", times=0)


class Change(NamedTuple):
    """What somebody changes."""

    kind: str
    facts: dict[str, Any]
    told: str
    """Code of the alert."""
    most: str
    """The largest entry that may follow, coins."""
    asked: tuple[str, str, str] | None = None
    """Path, text and its replacement: how it is read in a position, with which Binance lets nobody change it."""


def filters(most: str, **facts: Any) -> Change:
    return Change("filters", {**SYMBOL, **facts}, "SYMBOL_CHANGED", most)


def setting(kind: str, facts: dict[str, Any], asked: tuple[str, str, str] | None = None) -> Change:
    return Change(kind, facts, "ACCOUNT_MISMATCH", "0", asked)


CUT = [[20, 5_000, "0.01"], [10, 10_000, "0.02"], [5, 15_000, "0.05"]]
CROSSED = ("symbolConfig", '"marginType":"ISOLATED"', '"marginType":"CROSSED"')
HEDGE = ("accountConfig", '"dualSidePosition":false', '"dualSidePosition":true')

CHANGES = {
    "finer tick and step": filters("0", tick_finer=10, step_finer=10),
    "tick": filters("0.250", tick_multiple=70),
    "step": filters("0.245", step_multiple=7),
    "least notional": filters("0", min_notional=25_000 * 10**8),
    "largest order": filters("0.100", market_max_quantity=100),
    "bracket": Change("brackets", {**SYMBOL, "brackets": CUT}, "BRACKET_CHANGED", "0.187"),
    "leverage": setting("leverage", {**SYMBOL, "leverage": 9}),
    "margin type": setting("margin_type", {**SYMBOL, "margin_type": "cross"}, CROSSED),
    "position mode": setting("hedge_mode", {}, HEDGE),
    "status": Change("status", {**SYMBOL, "status": "TRADING_HALT"}, "SYMBOL_CHANGED", "0"),
}

each_change = pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES.keys())
some_changes = pytest.mark.parametrize(
    "change",
    [
        (pytest.param if name in ("finer tick and step", "tick", "leverage", "status") else rarely)(change, id=name)
        for name, change in CHANGES.items()
    ],
)
"""One of each way in which a change is found at a return: by filters, by a setting, by the status."""


def strikes(change: Change, *, flat: bool, back_s: float = 70.0) -> list[Any]:
    """What changes it; a symbol that is halted while a position is held trades again after a while."""
    if change.asked is not None and not flat:
        path, find, put = change.asked
        return [answers(1e6, path, replacing(find, put), at_s=CHANGED_S)]
    halts = change.kind == "status" and not flat
    back = [at(back_s, "status", with_={**SYMBOL, "status": "TRADING"})] if halts else []
    return [NEVER_TOLD, at(CHANGED_S, change.kind, with_=change.facts), *back]


def is_told(evidence: Evidence, change: Change, within_s: float = SEEN_S, most_refused: int = 1) -> bool:
    """Whether a person was told of it in time, and the exchange refused no more orders than that for it."""
    orders = [request for request in evidence.requests if request.method != "GET"]
    codes = [request.code for request in orders if request.code in FILTER_CODES]
    assert len(codes) <= most_refused, codes
    told = alerts(evidence, when(evidence, CHANGED_S))
    assert any(text.startswith(change.told) for text in told), told
    first = [row.time for row in evidence.journals[0] if row.kind == "Alert" and row.body["code"] == change.told]
    return first[0] <= when(evidence, CHANGED_S + within_s)


def has_right_books(evidence: Evidence, change: Change) -> bool:
    """Whether the one round trip is booked as the venue has it: its lots, and its money where no price was rounded."""
    assert not [text for text in alerts(evidence) if text.startswith("POSITION_")]
    [trip] = round_trips(evidence)
    is_rounded = "tick_finer" in change.facts
    return trip["quantity"] == 250 and (is_rounded or money(trip["net"]) == wallet_change(evidence))


@each_change
def test_change_while_flat_is_seen_before_the_next_entry_and_obeyed(change: Change) -> None:
    """A rule that buys for the first time 75 s after the opening."""
    evidence = story(*strikes(change, flat=True), first_bar=84, duration_s=85.0)
    assert is_told(evidence, change, most_refused=0)
    assert len(entries(evidence)) == (change.most != "0")
    assert sum(Decimal(fill["quantity"]) for fill in fills(evidence, "e")) == Decimal(change.most)
    assert is_left_in_order(evidence)


@each_change
def test_change_in_position_is_told_and_the_position_is_left(change: Change) -> None:
    """Read within a minute. A stop that is cancelled by hand afterwards is put back by the filters of now."""
    by_hand = [] if change.kind == "status" else [at(75, "cancel_stops", with_=SYMBOL)]
    evidence = story(*strikes(change, flat=False), *by_hand, duration_s=85.0)
    assert is_told(evidence, change)
    assert is_left_in_order(evidence)
    assert has_right_books(evidence, change)


@some_changes
def test_change_while_the_engine_is_away_is_told_at_its_return(change: Change) -> None:
    """Killed right after it, and started again."""
    evidence = story(*strikes(change, flat=False, back_s=30.0), at(12, "kill"), duration_s=40.0)
    assert [life.how for life in evidence.lives] == ["killed", "ended"]
    assert is_told(evidence, change, within_s=20.0)
    assert is_left_in_order(evidence)
    assert has_right_books(evidence, change)


def test_stop_and_target_after_a_coarser_tick_are_on_it_and_lose_no_more_than_before() -> None:
    """A tick of 7.0: the stop of a purchase at 80,000 is not below 79,881, where it was; both are multiples of it."""
    coarser = at(3, "filters", with_={**SYMBOL, "tick_multiple": 70})
    evidence = story(coarser, first_bar=84, take_profit_atr=60.0, duration_s=85.0)
    [stop], [target] = placed(evidence, "STOP_MARKET"), placed(evidence, "TAKE_PROFIT_MARKET")
    prices = [Decimal(order["trigger_price"]) for order in (stop, target)]
    assert [price % 7 for price in prices] == [0, 0]
    [bought] = fills(evidence, "e")
    assert 0 <= prices[0] - (Decimal(bought["price"]) - Decimal("119.0")) < 7
    assert 0 <= (Decimal(bought["price"]) + Decimal("121.0")) - prices[1] < 14
    assert refused(evidence, -4014) == []


def test_rest_smaller_than_a_step_is_said_and_left_with_the_position() -> None:
    """0.250 coins are held as the step becomes 0.007: exits of 0.252 leave nothing."""
    coarser = at(CHANGED_S, "filters", with_={**SYMBOL, "step_multiple": 7})
    evidence = story(coarser, duration_s=75.0)
    assert any("no multiple of the step" in text for text in alerts(evidence))
    [left] = [row for row in evidence.of_kind("order") if row["reduce_only"] and row["status"] == "NEW"]
    assert left["quantity"] == "0.252"
    assert refused(evidence, -4023) == []
    assert is_left_in_order(evidence)


@pytest.mark.parametrize(
    ("facts", "lots"),
    [({"step_multiple": 7, "tick_multiple": 70}, 250), ({"step_finer": 10, "tick_finer": 10}, 2_500)],
    ids=["coarser", "finer"],
)
def test_next_run_goes_on_from_a_position_of_an_earlier_step(facts: dict[str, int], lots: int) -> None:
    """A run ends with `protect`, tick and step change, and another run adopts the position: in the finer units."""
    changed = at(CHANGED_S, "filters", with_={**SYMBOL, **facts})
    second = at(15, "run", name="b", duration_s=20.0, on_duration_end="flatten")
    evidence = story(changed, second, duration_s=8.0, on_duration_end="protect")
    assert [life.how for life in evidence.lives] == ["ended", "ended"]
    [trip] = round_trips(evidence)
    assert (trip["quantity"], money(trip["net"])) == (lots, wallet_change(evidence))
    assert not [text for text in alerts(evidence) if text.startswith("POSITION_")]
    assert is_left_in_order(evidence)


def test_largest_order_that_grows_again_is_used_again() -> None:
    """0.100 for half a minute: exits after it go in one part again."""
    smaller = at(2, "filters", with_={**SYMBOL, "market_max_quantity": 100})
    larger = at(64, "filters", with_={**SYMBOL, "market_max_quantity": 120_000})
    evidence = story(smaller, larger, duration_s=130.0)
    exits = [row["quantity"] for row in evidence.of_kind("order") if row["reduce_only"] and row["status"] == "NEW"]
    assert exits == ["0.250"]
    assert is_left_in_order(evidence)


def test_fills_of_a_finer_step_add_up_to_the_order() -> None:
    """Exits fill by trades of 0.100 coins and a little more: parts that are no whole lots, told and listed."""
    finer = at(CHANGED_S, "filters", with_={**SYMBOL, "tick_finer": 10, "step_finer": 10})
    falls = [(0.0, 80_000.0), (55.0, 80_000.0), (65.0, 79_900.0)]
    evidence = story(finer, at(30, "abort", on="private"), path=falls, lots=100, duration_s=60.0)
    parts = [Decimal(fill["quantity"]) for fill in fills(evidence, "x")]
    assert any(part % Decimal("0.001") for part in parts)
    assert sum(parts) == Decimal("0.250")
    [trip] = round_trips(evidence)
    assert trip["quantity"] == 250
    assert is_left_in_order(evidence)


def follows_a_market(open_ms: int) -> list[Any]:
    """The symbol becomes a contract on a stock, whose market shuts so long after its hours are asked for."""
    asked: list[int] = []

    def hours(told: Any) -> Any:
        asked.append(told["updateTime"])
        shut = asked[0] + open_ms
        rows = [(0, shut, "REGULAR"), (shut, 1 << 60, "NO_TRADING")]
        sessions = [dict(zip(("startTime", "endTime", "type"), row, strict=True)) for row in rows]
        return told | {"marketSchedules": {"EQUITY": {"sessions": sessions}}}

    kind = {"contractType": "TRADIFI_PERPETUAL", "underlyingType": "EQUITY"}
    listed = answers(1e6, "GET /fapi/v1/exchangeInfo", lambda told: told | {"symbols": [told["symbols"][0] | kind]})
    return [listed, answers(1e6, "GET /fapi/v1/tradingSchedule", hours)]


@pytest.mark.parametrize(("first_bar", "bought"), [(84, 0), (0, 1)], ids=["flat", "in position"])
def test_while_the_market_of_a_stock_is_shut_nothing_is_entered_and_a_position_is_tended(
    first_bar: int, bought: int
) -> None:
    """It shuts within the first minute. A stop that is cancelled by hand afterwards is put back."""
    by_hand = at(75, "cancel_stops", with_=SYMBOL)
    bars = {"first_bar": first_bar} if first_bar else {}
    evidence = story(*follows_a_market(20_000), by_hand, duration_s=85.0, **bars)
    assert any("status TRADING -> NO_TRADING; nothing is entered until" in text for text in alerts(evidence))
    assert len(entries(evidence)) == bought
    assert len(placed(evidence, "STOP_MARKET")) == 2 * bought
    assert len(questions(evidence, "/fapi/v1/tradingSchedule")) == 1
    assert is_left_in_order(evidence)
