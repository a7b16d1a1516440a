"""A rehearsal: a round trip at a simulated exchange of its own, so that no fill of another has to be compiled first.

Functions are compiled, or read from the cache, when each is first called. With an empty cache that took seconds between
the fill of a process's first entry and the report of it, for which a position lacked its stop.
"""

from __future__ import annotations

from contextlib import suppress

from voltrade.config import Config
from voltrade.model import MONEY, Instrument, MarkPrice, OrderRequest, OrderType, Side, Trades
from voltrade.simulated.refusals import VenueRefusal
from voltrade.simulated.tape_playback import exchange_for

MOST_TRADES = 100
"""How many trades are played."""


def rehearse(config: Config, instrument: Instrument, trades: Trades) -> None:
    """Play a round trip: a market order, its stop, a trade that triggers it, a mark price, and the exit.

    Args:
        config: settings of the session.
        instrument: filters of the symbol.
        trades: some of those to come, or like them: compiled is for their types. At least one.
    """
    trades = trades[:MOST_TRADES]
    exchange = exchange_for(config, [instrument], clock=int(trades.time[0]) - 1)
    symbol, price, time = trades.symbol, int(trades.price[0]), int(trades.time[-1])
    value, later = price * instrument.money_per_ticklot, exchange.terms.latency_ms + 1_000
    lots = max(instrument.min_quantity, -(-2 * instrument.min_notional // value))
    exchange.on_trades(trades)
    exchange.on_mark(MarkPrice(symbol, time, int(price * instrument.tick_size * MONEY), 0, time))
    with suppress(VenueRefusal):  # the account of the settings may be too small for it
        exchange.place_order(OrderRequest(symbol, "rehearsal-1", Side.BUY, OrderType.MARKET, lots))
        exchange.advance(time + later)
        stop = OrderRequest(
            *(symbol, "rehearsal-2", Side.SELL, OrderType.STOP_MARKET, lots),
            trigger_price=max(price // 2, 1),
            reduce_only=True,
        )
        exchange.place_algo(stop)
        exchange.advance(time + 2 * later)
        rows = [(int(trades.id[-1]) + 1, max(price // 3, 1), lots, time + 3 * later, True)]
        exchange.on_trades(Trades.from_rows(symbol, rows))
        exchange.advance(time + 4 * later)
