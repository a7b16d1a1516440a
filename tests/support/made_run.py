"""A run made up by a seed: bars with decisions and the facts of some round trips; plausible to look at."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from voltrade.model import (
    MONEY,
    NEVER,
    AlgoUpdate,
    BreakerChange,
    EquityPoint,
    FeedGap,
    Instrument,
    OrderIntent,
    OrderRequest,
    OrderType,
    OrderUpdate,
    Outcome,
    Purpose,
    Refusal,
    Reply,
    RoundTrip,
    Side,
)

START = 1_767_196_800_000 - 3_600_000
"""2025-12-31 15:00 UTC, ms."""

TAKER_E4 = 5


@dataclass
class MadeRun:
    """Journal rows in order, `("Bar", dict)` or `("fact", value)`, of one instrument."""

    instrument: Instrument
    rows: list[tuple[int, Any]] = field(default_factory=list)

    @property
    def bars(self) -> list[dict[str, Any]]:
        return [body for _, body in self.rows if isinstance(body, dict)]

    @property
    def facts(self) -> list[Any]:
        return [body for _, body in self.rows if not isinstance(body, dict)]


def made_run(instrument: Instrument, bar_count: int = 400, seed: int = 1) -> MadeRun:
    """Walk the price at random; every 23rd bar has a signal, every third of which a gate refuses."""
    random = np.random.default_rng(seed)
    run, harness = MadeRun(instrument), _Harness(instrument)
    close, time, trade_id = 875_000, START, 1
    closes: list[int] = []
    for number in range(bar_count):
        opened = time + 200
        time += int(random.lognormal(10, 0.8))
        path = close + np.cumsum(random.normal(0, 250, 12)).astype(int)
        is_signal = number > 30 and number % 23 == 0
        side = Side.BUY if random.random() < 0.5 else Side.SELL
        bar = _bar(number, opened, time, close, path, trade_id, random)
        bar["decision"] = _decision([*closes, bar["close"]], int(side) if is_signal else 0)
        run.rows.append((time, bar))
        closes.append(bar["close"])
        close, trade_id = bar["close"], trade_id + bar["trade_count"]
        for fact in harness.on_bar(number, time, bar, side if is_signal else None):
            run.rows.append((time, fact))
    return run


def _bar(number: int, opened: int, closed: int, last: int, path: Any, trade_id: int, random: Any) -> dict[str, Any]:
    prices = [last, *map(int, path)]
    volume, trades = 20_000, int(random.integers(30, 90))
    return {
        "day": opened // 86_400_000,
        "number": number,
        "open_time": opened,
        "close_time": closed,
        "first_trade_id": trade_id,
        "last_trade_id": trade_id + trades - 1,
        "open": prices[0],
        "high": max(prices),
        "low": min(prices),
        "close": prices[-1],
        "volume": volume,
        "taker_buy_volume": int(volume * random.beta(6, 6)),
        "notional": volume * sum(prices) // len(prices),
        "trade_count": trades,
        "close_reason": 2 if number == 100 else 1,
        "tainted": number == 160,
    }


def _decision(closes: list[int], signal: int) -> dict[str, Any]:
    last = np.array(closes[-20:]) / 10
    mean, deviation = float(last.mean()), float(last.std())
    is_ready = len(closes) > 20
    nan = math.nan
    return {
        "ema_fast": float(np.mean(last[-8:])) if is_ready else nan,
        "ema_slow": mean if is_ready else nan,
        "vwap": mean - 3 if is_ready else nan,
        "bollinger_upper": mean + 2 * deviation if is_ready else nan,
        "bollinger_lower": mean - 2 * deviation if is_ready else nan,
        "rsi": 50 + 30 * math.tanh((last[-1] - mean) / (deviation + 1)) if is_ready else nan,
        "atr": 60.0 if is_ready else nan,
        "ema_cross": signal,
        "bollinger_breakout": 0,
        "rsi_long": True,
        "rsi_short": signal >= 0,
        "vwap_long": signal <= 0,
        "vwap_short": signal >= 0,
        "ready": is_ready,
        "signal": signal,
    }


class _Harness:
    """Trades the signals: market in, a stop 250 and a take-profit 400 away, out after 30 bars at the latest."""

    def __init__(self, instrument: Instrument) -> None:
        self.instrument = instrument
        self.wallet = 10_000 * MONEY
        self.trip = 0
        self.trade_id = 1_000
        self.position: dict[str, Any] | None = None

    def on_bar(self, number: int, time: int, bar: dict[str, Any], side: Side | None) -> list[Any]:
        facts: list[Any] = [self._equity(time, bar["close"])] if number % 4 == 0 or number == 0 else []
        if number == 160:
            facts.append(FeedGap("BTCUSDT", time, bar["first_trade_id"] + 3, bar["first_trade_id"] + 6, 1))
        if self.position:
            facts += self._exit(number, time, bar)
        if side and self.position:
            facts.append(Refusal(time, "BTCUSDT", number, side, "IN_POSITION", "round trip is open"))
        elif side and number % 3 == 0:
            facts.append(Refusal(time, "BTCUSDT", number, side, "COOLDOWN", "1 of 3 bars since the last exit"))
        elif side:
            facts += self._enter(number, time, bar, side)
        if number == 250:
            facts.append(BreakerChange(time, "LOSING_STREAK", "REDUCING", "block", 5, 5, time + 600_000))
            facts.append(BreakerChange(time + 600_000, "LOSING_STREAK", "ACTIVE", "resume", 5, 5, NEVER))
        return facts

    def _equity(self, time: int, price: int) -> EquityPoint:
        held = self.position
        lots = held["side"] * held["quantity"] if held else 0
        unrealised = self.instrument.notional(lots * (price - held["price"])) if held else 0
        return EquityPoint(time, "BTCUSDT", self.wallet, unrealised, self.wallet + unrealised, lots, "mark")

    def _enter(self, number: int, time: int, bar: dict[str, Any], side: Side) -> list[Any]:
        self.trip += 1
        price, quantity = bar["close"] + side * 12, 150
        entry = self._order(time, Purpose.ENTRY, side, OrderType.MARKET, quantity, number, "ema_cross and vwap_filter")
        fill = self._fill(time + 60, entry, price, 0)
        self.position = {
            "side": side, "price": price, "quantity": quantity, "number": number, "opened": time + 60,
            "stop": price - side * 2_500, "take": price + side * 4_000, "fee": fill.fee, "entry_trade": fill.trade_id,
        }  # fmt: skip
        facts: list[Any] = [entry, self._accepted(time + 50, entry), fill]
        for purpose, kind, level in (
            (Purpose.STOP, OrderType.STOP_MARKET, self.position["stop"]),
            (Purpose.TAKE_PROFIT, OrderType.TAKE_PROFIT_MARKET, self.position["take"]),
        ):
            intent = self._order(
                time + 61, purpose, side.opposite, kind, quantity, -1, f"{purpose.name} of the fill", level
            )
            self.position[purpose.name] = intent
            facts += [intent, self._accepted(time + 100, intent), self._algo(time + 100, intent, "NEW")]
        return facts

    def _exit(self, number: int, time: int, bar: dict[str, Any]) -> list[Any]:
        held = self.position
        assert held is not None
        side = held["side"]
        worst, best = (bar["low"], bar["high"]) if side > 0 else (bar["high"], bar["low"])
        facts: list[Any] = []
        if side * (worst - held["stop"]) <= 0:
            reason, price, order = "STOP", held["stop"] - side * 5, held["STOP"]
        elif side * (best - held["take"]) >= 0:
            reason, price, order = "TAKE_PROFIT", held["take"] - side * 5, held["TAKE_PROFIT"]
        elif number - held["number"] > 30:
            order = self._order(
                time, Purpose.EXIT, side.opposite, OrderType.MARKET, held["quantity"], number, "time exit"
            )
            reason, price = "TIME", bar["close"] - side * 9
            facts += [order, self._accepted(time, order)]
        else:
            return []
        if reason != "TIME":
            facts.append(self._algo(time, order, "TRIGGERED", order_id=self.trade_id))
        realised = side * self.instrument.notional(held["quantity"] * (price - held["price"]))
        fill = self._fill(time, order, price, realised)
        fees = held["fee"] + fill.fee
        self.wallet += realised - fees
        facts += [
            fill,
            *[
                self._algo(time, held[name], "CANCELED" if name != reason else "FINISHED")
                for name in ("STOP", "TAKE_PROFIT")
            ],
            RoundTrip(
                self.trip, "BTCUSDT", side, held["opened"], time, held["number"], held["quantity"],
                held["price"] * held["quantity"], price * held["quantity"], realised, fees, 0, realised - fees,
                reason, held["stop"], held["take"], (held["entry_trade"],), (fill.trade_id,),
            ),
        ]  # fmt: skip
        self.position = None
        facts.append(self._equity(time, price))
        return facts

    def _order(
        self, time: int, purpose: Purpose, side: Side, kind: OrderType, lots: int, bar: int, why: str, trigger: int = 0
    ) -> OrderIntent:
        name = f"vt-made-{self.trip}{purpose}"
        request = OrderRequest("BTCUSDT", name, side, kind, lots, trigger_price=trigger, reduce_only=purpose != "e")
        return OrderIntent(time, request, purpose, self.trip, why, bar)

    def _accepted(self, time: int, intent: OrderIntent) -> Reply:
        order = intent.order
        return Reply(
            time, "submit", "BTCUSDT", order.client_order_id, order.order_type.is_conditional, Outcome.ACCEPTED
        )

    def _fill(self, time: int, intent: OrderIntent, price: int, realised: int) -> OrderUpdate:
        order = intent.order
        self.trade_id += 1
        fee = self.instrument.notional(price * order.quantity) * TAKER_E4 // 10_000
        return OrderUpdate(
            time, "BTCUSDT", order.client_order_id, self.trade_id, order.side, OrderType.MARKET, "FILLED", "TRADE",
            order.quantity, order.quantity, trade_id=self.trade_id, last_quantity=order.quantity, last_price=price,
            fee=fee, fee_asset="USDT", realised=realised,
        )  # fmt: skip

    def _algo(self, time: int, intent: OrderIntent, status: str, order_id: int = 0) -> AlgoUpdate:
        order = intent.order
        return AlgoUpdate(
            time, "BTCUSDT", order.client_order_id, 5_000 + self.trade_id, order.side, order.order_type, status,
            order.quantity, order.trigger_price, order_id,
        )  # fmt: skip
