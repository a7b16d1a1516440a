"""What freqtrade does in a conformance session: it enters and leaves when it may, and its stop rests at the exchange.

It runs in freqtrade's environment and uses what freqtrade's documentation gives to strategies, nothing else.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any, ClassVar

from client_words import permitted, say
from freqtrade.persistence import Trade
from freqtrade.strategy import IStrategy
from pandas import DataFrame


class FreqtradeSession(IStrategy):
    """Long whenever that is permitted, with a stop 1% below; nothing else exits but the permission to leave."""

    INTERFACE_VERSION = 3
    timeframe = "1m"
    startup_candle_count = 5
    stoploss = -0.02  # of the stake, at leverage 2: 1% of the price
    minimal_roi: ClassVar[dict[str, float]] = {"0": 100}

    def populate_indicators(self, dataframe: DataFrame, metadata: dict[str, Any]) -> DataFrame:
        return dataframe

    def populate_entry_trend(self, dataframe: DataFrame, metadata: dict[str, Any]) -> DataFrame:
        dataframe["enter_long"] = 1
        return dataframe

    def populate_exit_trend(self, dataframe: DataFrame, metadata: dict[str, Any]) -> DataFrame:
        return dataframe

    def leverage(self, *args: Any, **more: Any) -> float:
        return 2.0

    def confirm_trade_entry(self, *args: Any, **more: Any) -> bool:
        return permitted("enter")

    def custom_exit(self, *args: Any, **more: Any) -> str | None:
        return "permitted" if permitted("leave") else None

    def bot_loop_start(self, current_time: datetime, **more: Any) -> None:
        held, closed = Trade.get_open_trades(), Trade.get_trades_proxy(is_open=False)
        say(
            position=sum(trade.amount for trade in held),
            entry_price=held[0].open_rate if held else "",
            stops=[str(order.order_id) for trade in held for order in trade.open_sl_orders],
            exit_price=closed[-1].close_rate if closed else "",
        )
