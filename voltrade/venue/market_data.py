"""A symbol's market data as the simulated venue has sent it to clients, in Binance's JSON.

It is made from the tape alone: quotes have no order book, and aggregate trades have no single trades.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from decimal import Decimal
from itertools import pairwise

import numpy as np
import orjson

from voltrade.model import DAY_MS, NEVER, MarkPrice, Trades, money_text
from voltrade.simulated.fill_model import last_row_of_taker
from voltrade.simulated.formatting import average_text, column, notional_text, plain, price_text
from voltrade.simulated.tape_playback import TapePlayer
from voltrade.venue.messages import Json, render

INTERVALS_MS: Mapping[str, int] = {
    **{f"{n}m": n * 60_000 for n in (1, 3, 5, 15, 30)},
    **{f"{n}h": n * 3_600_000 for n in (1, 2, 4, 6, 8, 12)},
    "1d": DAY_MS,
}
"""Kline intervals that the venue supports."""
KLINES: Mapping[str, str] = {f"kline_{interval}": interval for interval in INTERVALS_MS}
"""Kline intervals by the names of their streams."""


class MarketData:
    """One symbol's market data up to what clients were sent; at first, what was played of its tape.

    Attributes:
        trades: the whole tape.
        sent: number of trades that were sent.
        marks: mark prices that were sent.
        time: the latest time in what was sent, ms UTC: of the venue's clock, or of the last trade.
    """

    def __init__(self, player: TapePlayer) -> None:
        self._player, self.trades, self.instrument = player, player.trades, player.market.instrument
        self.time = player.exchange.clock
        self.sync()

    def sync(self) -> None:
        """Set what was sent to what was played of the tape."""
        self.sent = self._player.trades_played
        self.marks = [*map(self._player.mark, range(self._player.marks_played))]

    def show(self, end: int, now: int) -> None:
        """Set the trades before a position as sent, at a time of the venue's clock."""
        self.sent = max(self.sent, end)
        self.time = max(self.time, now, int(self.trades.time[self.sent - 1]) if self.sent else 0)

    def jump(self, fraction: float, count: int, *, marks: bool) -> tuple[int, int, int]:
        """Move the prices of the next `count` trades, or of all to come for 0, by a fraction of the last price.

        Returns:
            The id of the first trade that moved, how many, and by how many ticks.
        """
        first = max(self.sent, self._player.trades_played)
        count = min(count or len(self.trades), len(self.trades) - first)
        ticks = round(int(self.trades.price[max(0, first - 1)]) * fraction)
        moved = (int(self.trades.id[first]) if count else 0, count, ticks)
        self.jump_again(*moved, marks=marks)
        return moved

    def jump_again(self, trade_id: int, count: int, ticks: int, *, marks: bool) -> None:
        """Move prices as an earlier `jump` did."""
        self._player.jump(trade_id, count, ticks, marks=marks)
        self.trades = self._player.trades

    def spread(self, ticks: int, lots: int) -> int:
        """Move prices and quantities of the trades to come off multiples of so many ticks and lots.

        Returns:
            The id of the first trade that moved.
        """
        first = max(self.sent, self._player.trades_played)
        trade_id = int(self.trades.id[first]) if first < len(self.trades) else NEVER
        self.spread_again(trade_id, ticks, lots)
        return trade_id

    def spread_again(self, trade_id: int, ticks: int, lots: int) -> None:
        """Move prices and quantities as an earlier `spread` did."""
        self._player.spread(trade_id, ticks, lots)
        self.trades = self._player.trades

    def rows_to(self, trade_id: int) -> int:
        """Return the row after a trade."""
        return int(np.searchsorted(self.trades.id, trade_id, side="right"))

    @property
    def symbol(self) -> str:
        return self.trades.symbol

    @property
    def seen(self) -> Trades:
        return self.trades[: self.sent]

    def between(self, first: int, last: int) -> Trades:
        """Return the trades sent of a time range, both ends included."""
        rows = np.searchsorted(self.seen.time, np.array([first, min(last, NEVER - 1) + 1], dtype=np.int64))
        return self.trades[int(rows[0]) : int(rows[1])]

    def agg_trade_events(self, trades: Trades) -> list[bytes]:
        """Return an `aggTrade` event for each trade; `f` and `l` repeat its id, since a tape has no single trades."""
        # Formatted here without a JSON library, since this must take less than a microsecond per trade.
        head, maker = f'{{"e":"aggTrade","s":"{self.symbol}","E":', ("false", "true")
        return [
            f'{head}{t},"a":{a},"p":"{p}","q":"{q}","nq":"{q}","f":{a},"l":{a},"T":{t},"m":{maker[m]},"st":1}}'.encode()
            for a, p, q, t, m in self._columns(trades)
        ]

    def agg_trade_rows(self, trades: Trades) -> list[Json]:
        """Return the rows of GET aggTrades."""
        return [
            {"a": a, "p": p, "q": q, "nq": q, "f": a, "l": a, "T": t, "m": m} for a, p, q, t, m in self._columns(trades)
        ]

    def _columns(self, trades: Trades) -> Iterator[tuple[int, str, str, int, bool]]:
        prices = column(trades.price, self.instrument.tick_size)
        quantities = column(trades.quantity, self.instrument.step_size)
        rest = (trades.time.tolist(), trades.buyer_is_maker.tolist())
        return zip(trades.id.tolist(), prices, quantities, *rest, strict=True)

    def klines(self, step: int, first: int, last: int) -> Iterator[Json]:
        """Yield the values of klines from the first trade on; one without trades has the last price.

        Args:
            step: their length, ms.
            first, last: numbers of the first and last kline, counted since 1970.
        """
        edges = np.searchsorted(self.seen.time, np.arange(first, last + 2) * step).tolist()
        for number, (begin, end) in enumerate(pairwise(edges), first):
            if end:
                sums = self._sums(self.trades[begin:end], int(self.trades.price[max(0, begin - 1)]))
                yield {**sums, "open_time": number * step, "close_time": (number + 1) * step - 1}

    def kline_events(self, interval: str, sent_before: int, time_before: int) -> list[bytes]:
        """Return `kline` events since an earlier state: of each kline that has closed, and of one with new trades."""
        step, events = INTERVALS_MS[interval], []
        for facts in self.klines(step, time_before // step, self.time // step):
            is_closed = facts["close_time"] < self.time
            if is_closed or self.sent > sent_before:
                facts |= {"interval": interval, "is_closed": is_closed, "now": self.time}
                events.append(orjson.dumps(render("kline", facts)))
        return events

    def day(self, now: int) -> Json:
        """Return the statistics of the last 24 hours."""
        trades, last = self.between(now - DAY_MS, NEVER), self.seen[-1:]
        facts = self._sums(trades, int(last.price.sum())) | {"open_time": now - DAY_MS, "close_time": now}
        opened, turnover = int((trades if len(trades) else last).price[:1].sum()), int(trades.price @ trades.quantity)
        change = int(last.price.sum()) - opened
        facts |= {"change": plain(self.instrument.price(change)), "last_quantity": self._quantity(last.quantity.sum())}
        facts |= {"change_percent": f"{Decimal(100 * change) / max(1, opened):.3f}"}
        facts |= {"average_price": average_text(self.instrument, turnover, int(trades.quantity.sum()))}
        return render("ticker_day", facts)

    def _sums(self, trades: Trades, price_before: int) -> Json:
        """Return prices, volumes and ids of trades; without trades the prices are the one before."""
        bought = trades[~trades.buyer_is_maker]
        prices = trades.price if len(trades) else np.array([price_before])
        ticks = {"open": prices[0], "high": prices.max(), "low": prices.min(), "close": prices[-1]}
        lots = {"volume": trades.quantity.sum(), "bought": bought.quantity.sum()}
        turnovers = {"turnover": trades.price @ trades.quantity, "bought_turnover": bought.price @ bought.quantity}
        ids = (int(trades.id[0]), int(trades.id[-1])) if len(trades) else (-1, -1)
        return {
            **{name: price_text(self.instrument, int(price)) for name, price in ticks.items()},
            **{name: self._quantity(quantity) for name, quantity in lots.items()},
            **{name: notional_text(self.instrument, int(turnover)) for name, turnover in turnovers.items()},
            **{"symbol": self.symbol, "count": len(trades), "first_id": ids[0], "last_id": ids[1]},
        }

    def _quantity(self, lots: int | np.int64) -> str:
        """Write a quantity with all decimals, also zero."""
        return plain(self.instrument.quantity(int(lots)))

    def ticker_price(self, now: int) -> Json:
        """Return the last price, 0 before the first trade."""
        last = self.seen[-1:]
        price = price_text(self.instrument, int(last.price.sum()))
        return {"symbol": self.symbol, "price": price, "time": int(last.time.sum()) or now}

    def book(self, name: str, now: int) -> Json:
        """Return a synthetic best bid and ask: the last prices at which a taker sold, and bought.

        If they would cross, the older one is moved by a tick. All values are 0 before the first trade.
        """
        bid = ask = bid_quantity = ask_quantity = update_id = 0
        if self.sent:
            trades, newest = self.seen, self.sent - 1
            rows = [last_row_of_taker(trades.buyer_is_maker, 0, self.sent, sold) for sold in (True, False)]
            bid_row, ask_row = (row if row >= 0 else newest for row in rows)
            bid, ask = int(trades.price[bid_row]), int(trades.price[ask_row])
            bid, ask = (bid, max(ask, bid + 1)) if trades.buyer_is_maker[newest] else (min(bid, ask - 1), ask)
            bid_quantity, ask_quantity = int(trades.quantity[bid_row]), int(trades.quantity[ask_row])
            update_id, now = int(trades.id[newest]), int(trades.time[newest])
        facts = {"symbol": self.symbol, "update_id": update_id, "time": now}
        facts |= {"bid": price_text(self.instrument, bid), "ask": price_text(self.instrument, ask)}
        facts |= {"bid_quantity": self._quantity(bid_quantity), "ask_quantity": self._quantity(ask_quantity)}
        return render(name, facts)


def mark_message(name: str, mark: MarkPrice) -> Json:
    """Return a mark price as an event or a row of REST; index and settlement price repeat it.

    Binance doesn't have the field `isLastPrice`: it is only there for a tape whose recorded mark prices have a hole.
    """
    facts = {"symbol": mark.symbol, "time": mark.time, "next_funding_time": mark.next_funding_time}
    facts |= {"mark_price": money_text(mark.price_e8), "funding_rate": money_text(mark.funding_rate_e8)}
    message = render(name, facts)
    return {**message, "isLastPrice": True} if mark.is_last_price else message
