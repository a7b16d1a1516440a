"""What others take to play the same trades back; run in the environment of the peers, not in ours (see `peers`).

hftbacktest only replays: no order is sent, and no bar is made. Its trades are given to it in its own format, and each
run's market is built before the clock starts. nautilus_trader trades a strategy like ours: volume bars, a cross of two
averages, market entries with a stop and a target. Each of its trades is an object, made before the clock starts.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from importlib.metadata import version
from typing import Any

import numpy as np
from peers import Columns, load, nautilus_ticks, serve

SECOND = 1_000_000_000


def hftbacktest(columns: Columns, threshold: int) -> tuple[Callable[[], dict[str, Any]], int, Callable[[], None]]:
    from hftbacktest import BUY_EVENT, EXCH_EVENT, LOCAL_EVENT, SELL_EVENT, TRADE_EVENT, BacktestAsset
    from hftbacktest import HashMapMarketDepthBacktest as Market
    from hftbacktest.types import event_dtype
    from numba import njit

    maker = columns["maker"]
    events = np.zeros(len(maker), event_dtype)
    events["ev"] = EXCH_EVENT | LOCAL_EVENT | TRADE_EVENT | np.where(maker, SELL_EVENT, BUY_EVENT)
    # The time of a trade may not repeat there: a nanosecond is added for each that does.
    events["exch_ts"] = columns["time"] * 1_000_000 + np.arange(len(maker)) % 1_000_000
    events["local_ts"] = events["exch_ts"]
    events["px"], events["qty"] = columns["price"] * 0.1, columns["quantity"] * 0.001
    market: list[Any] = []

    def build() -> None:
        market.clear()
        asset = BacktestAsset().data([events]).linear_asset(1.0).constant_order_latency(SECOND // 20, 0)
        asset = asset.risk_adverse_queue_model().no_partial_fill_exchange().trading_value_fee_model(0.0002, 0.0005)
        market.append(Market([asset.tick_size(0.1).lot_size(0.001).last_trades_capacity(0)]))

    @njit
    def replay(hbt: Any) -> int:
        hours = 0
        while hbt.elapse(3_600 * SECOND) == 0:
            hours += 1
        return hours

    build()
    replay(market[0])
    return lambda: {"hours": int(replay(market[0]))}, len(events), build


def nautilus_trader(columns: Columns, threshold: int) -> tuple[Callable[[], dict[str, Any]], int, Callable[[], None]]:
    from nautilus_trader.backtest.engine import BacktestEngine, BacktestEngineConfig
    from nautilus_trader.config import LoggingConfig, RiskEngineConfig
    from nautilus_trader.indicators import AverageTrueRange, ExponentialMovingAverage
    from nautilus_trader.model.currencies import USDT
    from nautilus_trader.model.data import BarSpecification, BarType
    from nautilus_trader.model.enums import (
        AccountType,
        AggregationSource,
        BarAggregation,
        OmsType,
        OrderSide,
        PriceType,
    )
    from nautilus_trader.model.identifiers import Venue
    from nautilus_trader.model.objects import Money, Quantity
    from nautilus_trader.test_kit.providers import TestInstrumentProvider
    from nautilus_trader.trading.strategy import Strategy

    instrument = TestInstrumentProvider.btcusdt_perp_binance()
    kind = BarType(
        instrument.id, BarSpecification(threshold, BarAggregation.VOLUME, PriceType.LAST), AggregationSource.INTERNAL
    )
    size = Quantity(1.0, instrument.size_precision)

    class Cross(Strategy):  # type: ignore[misc]
        def on_start(self) -> None:
            self.fast, self.slow, self.atr = (
                ExponentialMovingAverage(10),
                ExponentialMovingAverage(60),
                AverageTrueRange(14),
            )
            for indicator in (self.fast, self.slow, self.atr):
                self.register_indicator_for_bars(kind, indicator)
            self.subscribe_bars(kind)
            self.rising = None

        def on_bar(self, bar: Any) -> None:
            if not self.indicators_initialized():
                return
            rising = self.fast.value > self.slow.value
            crossed, self.rising = self.rising is not None and rising != self.rising, rising
            if not crossed or not self.portfolio.is_flat(instrument.id):
                return
            sign = 1 if rising else -1
            entry = OrderSide.BUY if rising else OrderSide.SELL
            close = float(bar.close)
            orders = self.order_factory.bracket(
                instrument_id=instrument.id,
                order_side=entry,
                quantity=size,
                sl_trigger_price=instrument.make_price(close - sign * 2 * self.atr.value),
                tp_price=instrument.make_price(close + sign * 4 * self.atr.value),
            )
            self.submit_order_list(orders)

    ticks = nautilus_ticks(instrument, columns)
    engines: list[Any] = []

    def build() -> None:
        while engines:
            engines.pop().dispose()
        settings = BacktestEngineConfig(
            logging=LoggingConfig(bypass_logging=True), risk_engine=RiskEngineConfig(bypass=True)
        )
        engine = BacktestEngine(settings)
        wallet = [Money(1_000_000, USDT)]
        engine.add_venue(Venue("BINANCE"), OmsType.NETTING, AccountType.MARGIN, wallet, USDT, trade_execution=True)
        engine.add_instrument(instrument)
        engine.add_data(ticks)
        engine.add_strategy(Cross())
        engines.append(engine)

    def run() -> dict[str, Any]:
        (engine,) = engines
        engine.run()
        return {"round_trips": len(engine.cache.position_snapshots()) + len(engine.cache.positions_closed())}

    return run, len(ticks), build


PEERS = {peer.__name__: peer for peer in (hftbacktest, nautilus_trader)}


def main() -> None:
    name, folder, threshold = sys.argv[1:]
    run, count, prepare = PEERS[name](load(folder), int(threshold))
    serve({"version": version(name), "trades": count}, run, prepare)


if __name__ == "__main__":
    main()
