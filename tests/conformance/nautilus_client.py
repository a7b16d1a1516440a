"""What nautilus_trader does in a conformance session: a live node with one strategy, aimed at the addresses given.

It runs in nautilus_trader's environment: `python nautilus_client.py REST WS`. Nothing is kept between two runs: a node
that is started again knows what it asks the exchange for.
"""

from __future__ import annotations

import sys
from datetime import timedelta
from decimal import Decimal
from typing import Any

from client_words import permitted, say
from nautilus_trader.adapters.binance import (
    BINANCE,
    BinanceAccountType,
    BinanceDataClientConfig,
    BinanceExecClientConfig,
    BinanceInstrumentProviderConfig,
    BinanceLiveDataClientFactory,
    BinanceLiveExecClientFactory,
)
from nautilus_trader.config import LiveExecEngineConfig, LoggingConfig, StrategyConfig, TradingNodeConfig
from nautilus_trader.live.node import TradingNode
from nautilus_trader.model.data import TradeTick
from nautilus_trader.model.enums import OrderSide
from nautilus_trader.model.events import OrderFilled, PositionOpened
from nautilus_trader.model.identifiers import InstrumentId, TraderId
from nautilus_trader.trading.strategy import Strategy

INSTRUMENT = InstrumentId.from_str("BTCUSDT-PERP.BINANCE")
QUANTITY = Decimal("0.050")


class NautilusSession(Strategy):
    """Long whenever that is permitted, with a stop 1% below; what it finds at its start it takes for its own."""

    def on_start(self) -> None:
        self.exit_price, self.has_trades, self.has_quotes = "", False, False
        self.instrument = self.cache.instrument(INSTRUMENT)
        self.subscribe_quote_ticks(INSTRUMENT)
        self.subscribe_trade_ticks(INSTRUMENT)
        self.clock.set_timer("look", interval=timedelta(seconds=0.5), callback=self.look)

    def on_trade_tick(self, tick: TradeTick) -> None:
        self.has_trades = True

    def on_quote_tick(self, tick: Any) -> None:
        self.has_quotes = True

    def look(self, event: Any) -> None:
        """Enter or leave if that is permitted, once prices come; say what the client knows."""
        held, orders = self.cache.positions_open(instrument_id=INSTRUMENT), self.cache.orders_open()
        if not held and not orders and self.has_trades and self.has_quotes and permitted("enter"):
            quantity = self.instrument.make_qty(QUANTITY)
            self.submit_order(self.order_factory.market(INSTRUMENT, OrderSide.BUY, quantity))
        if held and permitted("leave"):
            self.cancel_all_orders(INSTRUMENT)
            self.close_all_positions(INSTRUMENT)
        say(
            position=sum(position.signed_decimal_qty() for position in held),
            entry_price=held[0].avg_px_open if held else "",
            stops=[str(order.venue_order_id) for order in orders],
            exit_price=self.exit_price,
        )

    def on_position_opened(self, event: PositionOpened) -> None:
        """Protect a position; one that was found has its stop."""
        if not self.cache.orders_open():
            trigger = self.instrument.make_price(event.avg_px_open * 0.99)
            stop = (INSTRUMENT, OrderSide.SELL, event.quantity, trigger)
            self.submit_order(self.order_factory.stop_market(*stop, reduce_only=True))

    def on_order_filled(self, event: OrderFilled) -> None:
        if event.order_side == OrderSide.SELL:
            self.exit_price = str(event.last_px)


def config_of(rest: str, ws: str) -> TradingNodeConfig:
    """Return the configuration of a live node: that of Binance's, but for the addresses."""
    provider = BinanceInstrumentProviderConfig(load_ids=frozenset({INSTRUMENT}), query_commission_rates=True)
    account = {"api_key": "sim-key", "api_secret": "sim-secret", "account_type": BinanceAccountType.USDT_FUTURES}
    common = {**account, "base_url_http": rest, "base_url_ws": ws, "instrument_provider": provider}
    return TradingNodeConfig(
        trader_id=TraderId("CONFORMANCE-001"),
        logging=LoggingConfig(log_level="INFO", log_colors=False),
        exec_engine=LiveExecEngineConfig(reconciliation=True, reconciliation_startup_delay_secs=0.5),
        data_clients={BINANCE: BinanceDataClientConfig(**common)},
        exec_clients={BINANCE: BinanceExecClientConfig(**common, base_url_ws_stream=f"{ws}/private")},
        timeout_connection=30.0,
        timeout_reconciliation=20.0,
    )


def main(rest: str, ws: str) -> None:
    node = TradingNode(config=config_of(rest, ws))
    node.trader.add_strategy(NautilusSession(StrategyConfig(external_order_claims=[INSTRUMENT])))
    node.add_data_client_factory(BINANCE, BinanceLiveDataClientFactory)
    node.add_exec_client_factory(BINANCE, BinanceLiveExecClientFactory)
    node.build()
    try:
        node.run()
    finally:
        node.dispose()


if __name__ == "__main__":
    main(*sys.argv[1:])
