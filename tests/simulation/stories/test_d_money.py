"""Group D of the fault cases: whose money it is, and what it is called.

The venue knows one asset and one symbol, and funding is hours away. So a deposit or withdrawal of its own moves the
wallet, and is told, as event and as income, as what the story is about.
"""

from __future__ import annotations

from typing import Any

import pytest

from simulation.evidence import Evidence, Json
from simulation.scenario import at
from simulation.stories import claims
from simulation.stories.plots import DOWN, PRICE, answers, events, story

DOLLAR = 10**8
LIMITS: Json = {"max_daily_loss_fraction": 0.1, "max_drawdown_fraction": 0.01}
FAR: Json = {"stop_atr": 600.0, "risk_fraction": 0.05, "mark_interval_s": 5, **LIMITS}
"""A quarter of a coin with its stop 1.5 % away, which may cost 500 USDT; 100 below the peak trading is halted."""
INCOME = {"ORDER": "REALIZED_PNL", "FUNDING_FEE": "FUNDING_FEE", "DEPOSIT": "TRANSFER"}


def moves(at_s: float, amount: float, reason: str, symbol: str = "BTCUSDT", asset: str = "USDT") -> list[Any]:
    """The wallet changes by an amount, which is told with its reason and the symbol that it is about."""

    def retold(event: Json) -> Json:
        facts = event["a"] | {"m": reason, "S": symbol}
        if asset != "USDT":
            facts["B"] = [{"a": asset, "wb": "0.50000000", "cw": "0.50000000", "bc": "0.50000000"}]
        elif reason == "ORDER":
            facts["B"][0]["bc"] = "0"
        if symbol == "ETHUSDT":
            flat = dict.fromkeys(("pa", "ep", "bep", "cr", "up", "iw"), "0")
            facts["P"] = [{"s": symbol, **flat, "mt": "isolated", "ps": "BOTH"}]
        return {**event, "a": facts}

    def booked(rows: list[Json]) -> list[Json]:
        told = {"incomeType": INCOME[reason], "symbol": "" if reason == "DEPOSIT" else symbol}
        return [row | told if float(row["income"]) == amount else row for row in rows]

    kind = "deposit" if amount > 0 else "withdraw"
    return [
        at(at_s, kind, with_={"amount": f"{abs(amount):.8f}"}),
        events(0.02, "user ACCOUNT_UPDATE", retold, at_s=at_s - 0.005),
        answers(1e6, "GET /fapi/v1/income", booked, at_s=at_s - 0.005),
    ]


def books(evidence: Evidence) -> int:
    """The wallet as we booked it last."""
    return [row.body["wallet"] for row in evidence.journals[-1] if row.kind == "EquityPoint"][-1]


def wallet(evidence: Evidence) -> int:
    """The wallet as the exchange has it."""
    [*_, last] = evidence.of_kind("account")
    return round(float(last["wallet"]) * DOLLAR)


def trips(evidence: Evidence) -> list[str]:
    """Rules that stopped trading."""
    return [row.body["rule"] for row in evidence.journals[-1] if row.kind == "BreakerChange"]


@pytest.mark.parametrize("amount", [5_000, -5_000], ids=["deposit", "withdrawal"])
def test_d1_a_transfer_between_two_runs_is_no_funding(amount: int) -> None:
    """5,000 come to the wallet, or leave it, while no engine runs; in the next run funding of -0.50 is paid.

    Then the price falls by 0.6 %: the position loses 125, and the limit of 100 must stop trading, nothing else.
    """
    transfer = at(20, "deposit" if amount > 0 else "withdraw", with_={"amount": str(abs(amount))})
    second = at(30, "run", name="second", duration_s=60.0, first_bar=1)
    path = [(45, PRICE), (60, PRICE - 500)]
    strikes = transfer, second, *moves(40, -0.5, "FUNDING_FEE")
    evidence = story(*strikes, path=path, duration_s=10.0, first_bar=10**6, **FAR)
    [trip] = claims.round_trips(evidence)
    assert trip["funding"] == -0.5 * DOLLAR
    assert trip["closed_at"] > claims.when(evidence, 55), "the transfer must not look like a loss"
    assert trips(evidence)[0] == "DRAWDOWN"
    assert books(evidence) == wallet(evidence)


def test_d2_funding_between_a_fills_two_events_is_only_funding() -> None:
    """The stop fills; its ACCOUNT_UPDATE comes, then funding of -1.25, then its ORDER_TRADE_UPDATE a second late."""
    late = at(20, "delay", 1.0, on="user ORDER_TRADE_UPDATE FILLED", times=0)
    path = [(30, PRICE), (30.1, PRICE - 300)]
    evidence = story(late, *moves(30.22, -1.25, "FUNDING_FEE"), path=path, mark_interval_s=5)
    [stopped] = claims.fills(evidence, "s")
    claims.premise(stopped["time"] == claims.when(evidence, 30.2), "funding that follows the fill")
    [trip] = claims.round_trips(evidence)
    assert trip["funding"] == -1.25 * DOLLAR
    assert books(evidence) == wallet(evidence)


def test_d2_funding_before_a_snapshot_does_not_count_its_fills_twice() -> None:
    """The stop fills while the user stream is down; it comes up, and funding is told before the snapshot answers."""
    down = at(29, "abort", on="private"), at(28, "delay_answer", 3.0, on="POST /fapi/v1/listenKey")
    slow = at(28, "delay_answer", 1.5, on="GET /fapi/v3/account", times=0)
    path = [(30, PRICE), (30.1, PRICE - 300)]
    evidence = story(*down, slow, *moves(32.7, -1.25, "FUNDING_FEE"), path=path, mark_interval_s=5)
    [trip] = claims.round_trips(evidence)
    assert trip["funding"] == -1.25 * DOLLAR
    assert books(evidence) == wallet(evidence)


@pytest.mark.parametrize("told_after_s", [3.0, 8.0], ids=["before the next entry", "in the next round trip"])
def test_d2_funding_that_is_told_after_its_round_trip_is_the_accounts_alone(told_after_s: float) -> None:
    """1.25 are paid in position, and told late. The stop fills 0.5 s after them, the next entry 4 s after the stop.

    The round trip that paid is written by then, so that it lacks them; the next must not have them. The wallet has, and
    so have the limits on losses.
    """
    late = at(19.9, "delay", told_after_s, on="user ACCOUNT_UPDATE", times=1)
    path = [(20.4, PRICE), (20.5, PRICE - 300)]
    facts: Json = {"cooldown_bars": 0, "cooldown_s": 4.0, "mark_interval_s": 5, "duration_s": 60.0}
    evidence = story(late, *moves(20, -1.25, "FUNDING_FEE"), path=path, **facts)
    first, second = claims.round_trips(evidence)
    [told] = [row.time for row in evidence.journals[-1] if row.kind == "AccountUpdate" and row.body["change"] < 0]
    claims.premise(first["closed_at"] < told, "funding that is told late")
    claims.premise((second["opened_at"] < told) == (told_after_s > 4), "when the next position began")
    assert (first["funding"], second["funding"]) == (0, 0)
    assert books(evidence) == wallet(evidence)
    assert books(evidence) - 10_000 * DOLLAR == first["net"] + second["net"] - 1.25 * DOLLAR


@pytest.mark.parametrize(
    ("money", "ours"),
    [
        ([(20, -150, "ORDER", "ETHUSDT"), (25, -1, "FUNDING_FEE", "ETHUSDT")], 0),
        ([(20, -300, "ORDER", "ETHUSDT"), (25, -1, "FUNDING_FEE", "BTCUSDT")], -1),
        ([(20, -150, "FUNDING_FEE", "ETHUSDT")], 0),
    ],
    ids=["loss and funding", "loss, and our funding", "funding"],
)
def test_d3_another_symbols_money_is_not_booked_to_our_round_trip(money: list[Any], ours: int) -> None:
    """While we hold BTCUSDT somebody's ETHUSDT on the account loses, or pays funding, which names it (`a.S`, `P`)."""
    evidence = story(*(strike for each in money for strike in moves(*each)), **FAR)
    [trip] = claims.round_trips(evidence)
    assert trip["funding"] == ours * DOLLAR


def test_d4_a_deposit_is_told_with_its_own_amount() -> None:
    """ETHUSDT loses 300; then 100 are deposited. Told is +100, not a withdrawal of 200."""
    evidence = story(*moves(20, -300, "ORDER", "ETHUSDT"), *moves(25, 100, "DEPOSIT"), **FAR)
    [told] = [text for text in claims.alerts(evidence) if text.startswith("TRANSFER")]
    assert "DEPOSIT: 100." in told


@pytest.mark.parametrize("how", ["deleverage", "liquidate"])
def test_d4_the_loss_of_a_position_by_hand_is_no_transfer(how: str) -> None:
    """Somebody buys by hand while we hold nothing; the exchange closes that at a loss, by trades that aren't ours."""
    hand = at(2, "order", with_={"symbol": "BTCUSDT", "side": "BUY", "quantity": "0.5"})
    if how == "deleverage":
        forced, path = [at(20, "deleverage", with_={"symbol": "BTCUSDT"})], [(10, PRICE), (18, PRICE - 200)]
    else:
        forced, path = [at(20, "mark", with_={"symbol": "BTCUSDT", "price": "40000"})], []
    evidence = story(hand, *forced, path=path, duration_s=60.0, first_bar=10**6, **FAR)
    claims.premise([row for row in evidence.of_kind("fill") if "close" in row["client_order_id"]], "a forced close")
    told = [text for text in claims.alerts(evidence) if text.startswith(("TRANSFER", "ADJUSTMENT"))]
    assert [text for text in told if "ADJUSTMENT: trades that aren't ours: -" in text]
    assert [text for text in told if text.startswith("TRANSFER") and "INSURANCE" not in text] == []
    assert books(evidence) == wallet(evidence)


def test_d4_a_deposit_that_the_stream_does_not_tell_is_one() -> None:
    """400 are withdrawn, and the event is lost: the comparison of that minute finds it, the history names it."""
    untold = at(19, "drop", on="user ACCOUNT_UPDATE", until_s=21.0, times=0)
    withdrawn = at(20, "withdraw", with_={"amount": "400"})
    evidence = story(untold, withdrawn, duration_s=100.0, first_bar=10**6, **FAR)
    told = [text for text in claims.alerts(evidence) if text.startswith(("TRANSFER", "ADJUSTMENT"))]
    assert told == ["TRANSFER: told by the income history alone: -400.00000000"]
    assert trips(evidence) == []
    assert books(evidence) == wallet(evidence)


def test_d4_a_deposit_of_another_asset_is_no_transfer_of_ours() -> None:
    """The stop's loss of 30 is learnt from a snapshot; then 0.5 BNB are deposited, and `B` lists BNB alone."""
    down = at(29, "abort", on="private"), at(28, "delay_answer", 2.0, on="POST /fapi/v1/listenKey")
    bnb = moves(40, 1e-8, "DEPOSIT", "", "BNB")
    evidence = story(*down, *bnb, path=[(30, PRICE), (30.1, PRICE - 300)], mark_interval_s=5)
    claims.premise(claims.fills(evidence, "s"), "a stop that filled")
    assert [text for text in claims.alerts(evidence) if text.startswith("TRANSFER")] == []


def in_bnb(event: Json) -> Json:
    order = event["o"] | ({"N": "BNB", "n": "0.06666667"} if event["o"]["x"] == "TRADE" else {})
    return {**event, "o": order}


def trades_in_bnb(rows: list[Json]) -> list[Json]:
    return [row | {"commissionAsset": "BNB", "commission": "0.06666667"} for row in rows]


def test_d5_fees_paid_in_bnb_are_costs() -> None:
    """Each fill costs 0.0667 BNB, 40 USDT at a price of 600; the price stands still, the position is left in 3 s.

    Two round trips cost 160 and more: over the limit of 100. People are told once that fees are paid in BNB.
    """
    prices = dict.fromkeys(("price", "bidPrice", "askPrice", "lastPrice", "markPrice"), "600.00")
    evidence = story(
        events(1e6, "user ORDER_TRADE_UPDATE", in_bnb),
        answers(1e6, "GET /fapi/v1/userTrades", trades_in_bnb),
        at(0, "answer", 1e6, on="GET .*symbol=BNBUSDT", status=200, change=lambda _: {"symbol": "BNBUSDT", **prices}),
        **{**FAR, "cooldown_bars": 1, "max_holding_s": 3.0},
    )
    first, *_ = claims.round_trips(evidence)
    assert 79 * DOLLAR <= first["fees"] <= 81 * DOLLAR
    assert "DRAWDOWN" in trips(evidence)
    assert len([text for text in claims.alerts(evidence) if "BNB" in text]) <= 1


BNB_AT_600 = [
    at(0, "move_money", with_={"amount": "100", "asset": "BNB", "reason": "DEPOSIT"}),
    at(0, "fees_in", with_={"asset": "BNB", "price": 600}),
]
COSTLY: Json = {**FAR, "max_daily_loss_fraction": 0.5, "taker_fee": 0.0005, "cooldown_bars": 1, "max_holding_s": 3.0}
"""20,000 USDT of a coin cost 10 a side, 9 of them in BNB."""


def test_d5_the_exchanges_wallet_is_ours_though_bnb_pays_the_fees() -> None:
    """The venue takes fees in BNB from what the account has of it. The quote asset's wallet pays nothing, and differs
    from our books at no comparison; the round trips' fees are what the BNB was worth.
    """
    evidence = story(*BNB_AT_600, **COSTLY)
    spent = [row for row in evidence.of_kind("fill") if row["fee_asset"] == "BNB"]
    claims.premise(len(spent) >= 4, "fees that BNB has paid")
    worth = sum(round(float(row["fee"]) * 600 * DOLLAR) for row in spent)
    trips_ = claims.round_trips(evidence)
    assert abs(sum(trip["fees"] for trip in trips_) - worth) <= len(spent) * DOLLAR // 1_000
    assert books(evidence) == round(float(evidence.of_kind("fill")[-1]["wallet"]) * DOLLAR)
    assert [text for text in claims.alerts(evidence) if text.startswith("TRANSFER")] == []


def test_d5_an_order_with_fills_in_two_assets_costs_both() -> None:
    """The BNB of the account does for the first fills alone; the rest is paid in USDT."""
    little = at(0, "move_money", with_={"amount": "0.02", "asset": "BNB", "reason": "DEPOSIT"})
    evidence = story(little, BNB_AT_600[1], **COSTLY)
    paid = {row["fee_asset"]: float(row["fee"]) for row in evidence.of_kind("fill")}
    claims.premise(set(paid) == {"BNB", "USDT"}, "fees in two assets")
    assert all(8.9 * DOLLAR < trip["fees"] / 2 < 10.1 * DOLLAR for trip in claims.round_trips(evidence))


def test_d5_a_fee_that_a_snapshot_tells_is_a_cost_too() -> None:
    """The user stream is down while the entry fills: its fee in BNB is learnt from userTrades."""
    deaf = at(0.5, "deaf", 10, category="private")
    evidence = story(*BNB_AT_600, deaf, **{**COSTLY, "max_holding_s": 15.0})
    [first, *_] = claims.round_trips(evidence)
    assert 17.9 * DOLLAR < first["fees"] < 18.1 * DOLLAR


def test_d5_a_fee_whose_price_nobody_tells_is_told_as_missing() -> None:
    """BNB has no price here, and once it can be read, what follows is booked."""
    unread = at(0, "answer", 12, on="GET .*symbol=BNBUSDT", **DOWN)
    evidence = story(*BNB_AT_600, unread, duration_s=150.0, **{**COSTLY, "max_holding_s": 20.0})
    told = [text for text in claims.alerts(evidence) if "BNB" in text]
    assert [text.endswith("they are missing from the costs") for text in told] == [True, False]
    assert claims.round_trips(evidence)[0]["fees"] == 0
    assert claims.round_trips(evidence)[-1]["fees"] > 17 * DOLLAR
