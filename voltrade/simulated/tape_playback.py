"""Plays a tape of trades through a simulated exchange, with mark prices made from it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from voltrade.config import Config
from voltrade.model import MONEY, NEVER, Funding, Instrument, MarkPrice, Marks, Segment, Trades
from voltrade.simulated.event_log import Log
from voltrade.simulated.exchange import SimulatedExchange
from voltrade.simulated.margin_account import Terms
from voltrade.simulated.mark_columns import MarkColumns, mark_columns
from voltrade.simulated.symbols import shipped_instrument


def simulate(
    config: Config,
    trades: Trades,
    *,
    marks: Marks | None = None,
    funding: Funding | None = None,
    batch: int | None = None,
) -> tuple[SimulatedExchange, TapePlayer]:
    """Return the exchange and the player of a tape by a session's settings."""
    exchange = exchange_for(config, [trades.symbol], clock=int(trades.time[0]) - 1)
    return exchange, player_for(config, exchange, trades, marks=marks, funding=funding, batch=batch)


def exchange_for(
    config: Config, symbols: Sequence[str | Instrument], *, clock: int = 0, log: Log | None = None
) -> SimulatedExchange:
    """Return the exchange by a session's settings; `clock` is its time at the start, ms UTC.

    Backtest, paper and venue all use this, so that they simulate alike.

    Args:
        symbols: shipped symbols by name, others by their filters.

    Raises:
        DataError: a name is not shipped.
    """
    execution, risk = config.execution, config.risk
    terms = Terms(
        wallet=int(execution.wallet * MONEY),
        taker_fee_e8=int(execution.taker_fee * MONEY),
        maker_fee_e8=int(execution.maker_fee * MONEY),
        latency_ms=execution.latency_ms,
        slippage_bps=execution.slippage_bps,
        leverage=risk.leverage,
        margin_type=risk.margin_type,
    )
    instruments = [shipped_instrument(symbol) if isinstance(symbol, str) else symbol for symbol in symbols]
    return SimulatedExchange(instruments, terms, clock=clock, log=log)


def player_for(
    config: Config,
    exchange: SimulatedExchange,
    trades: Trades,
    *,
    marks: Marks | None = None,
    funding: Funding | None = None,
    batch: int | None = None,
) -> TapePlayer:
    """Return the player of one symbol's tape by a session's settings; see `mark_columns`."""
    market = exchange.markets[trades.symbol]
    every_ms = market.rules.funding_interval_ms
    return TapePlayer(exchange, trades, marks_for(config, trades, market.instrument, every_ms, marks, funding), batch)


def marks_for(
    config: Config, trades: Trades, instrument: Instrument, every_ms: int, marks: Marks | None, funding: Funding | None
) -> MarkColumns:
    """Return the mark prices over a tape by a session's settings; funding is due every `every_ms`."""
    return mark_columns(
        *(trades, instrument, every_ms),
        interval_ms=config.execution.mark_interval_s * 1000,
        seed=config.session.seed,
        funding_rate_e8=int(config.execution.funding_rate * MONEY),
        marks=marks,
        funding=funding,
    )


class TapePlayer:
    """Plays a tape of one symbol's trades, and mark prices made from it, through a simulated exchange.

    `horizon` looks ahead without playing; `play` plays. A mark price of time t comes after all trades before t and
    before those at t or later. The player of a restored exchange continues after its last trade and mark price.

    Attributes:
        trades_played: number of trades played.
        marks_played: number of mark prices played.
    """

    def __init__(
        self, exchange: SimulatedExchange, trades: Trades, marks: MarkColumns, batch: int | None = None
    ) -> None:
        """Prepare a tape; segments have at most `batch` trades."""
        self.exchange = exchange
        self.trades = trades
        self.batch = batch
        self.market = exchange.markets[trades.symbol]
        self.first_time = int(trades.time[0])
        self.last_time = int(trades.time[-1])
        self._marks = marks
        mark = self.market.mark
        self.trades_played = int(np.searchsorted(trades.id, self.market.last_trade_id, side="right"))
        self.marks_played = int(np.searchsorted(self._marks.time, mark.time, side="right")) if mark else 0
        self._nothing = trades[:0]

    def horizon(self) -> Segment:
        """Return what comes next, up to and including a trade with an effect or a mark price, at most a batch."""
        start = self.trades_played
        next_mark = self._mark_row(self.marks_played)
        stop = next_mark if self.batch is None else min(next_mark, start + self.batch)
        acting = self.market.first_acting(self.trades, start, stop)
        mark = None
        if acting < stop:
            stop = acting + 1
        elif stop == next_mark and self.marks_played < len(self._marks.time):
            mark = self.mark(self.marks_played)
        end = stop == len(self.trades) and self.marks_played == len(self._marks.time)
        return Segment(self.trades[start:stop], mark, end)

    def play(self, trade_count: int, mark: bool, time: int) -> None:
        """Play the next trades, then the next mark price if `mark`, and set the clock forward to `time`.

        Raises:
            ValueError: more trades than there are before the next mark price, or a mark price that is not next.
        """
        stop = self.trades_played + trade_count
        if trade_count < 0 or stop > self._mark_row(self.marks_played):
            raise ValueError(f"{trade_count} trades from {self.trades_played} are not what comes next")
        if trade_count:
            self.exchange.on_trades(self.trades[self.trades_played : stop])
            self.trades_played = stop
        if mark:
            if self.marks_played == len(self._marks.time) or stop != self._mark_row(self.marks_played):
                raise ValueError(f"no mark price comes after trade {stop}")
            self.exchange.on_mark(self.mark(self.marks_played))
            self.marks_played += 1
        self.exchange.advance(time)

    def go_to(self, trades: int, marks: int) -> None:
        """Play until these numbers of trades and mark prices have been played in total.

        Raises:
            ValueError: the numbers do not fit the tape, or were passed already; nothing was played.
        """
        is_ahead = self.trades_played <= trades and self.marks_played <= marks <= len(self._marks.time)
        if not is_ahead or not (self._mark_row(marks - 1) if marks else 0) <= trades <= self._mark_row(marks):
            raise ValueError(f"{trades} trades and {marks} marks are not what comes next")
        while self.marks_played < marks:
            self.play(self._mark_row(self.marks_played) - self.trades_played, True, 0)
        self.play(trades - self.trades_played, False, 0)

    @property
    def is_over(self) -> bool:
        """Whether everything has been played."""
        return self.trades_played == len(self.trades) and self.marks_played == len(self._marks.time)

    @property
    def next_time(self) -> int:
        """Time of the next trade or mark price, ms; NEVER after the last."""
        trade = int(self.trades.time[self.trades_played]) if self.trades_played < len(self.trades) else NEVER
        mark = int(self._marks.time[self.marks_played]) if self.marks_played < len(self._marks.time) else NEVER
        return min(trade, mark)

    def due(self, time: int) -> tuple[int | None, Trades, MarkPrice | None]:
        """Return the part of the horizon up to a time, and its end time, None if there is none."""
        if self.next_time > time:
            return None, self._nothing, None
        segment = self.horizon()
        trades = segment.trades
        if not (whole := not len(trades) or trades.time[-1] <= time):
            trades = trades[: int(np.searchsorted(trades.time, time, side="right"))]
        mark = segment.mark if whole and segment.mark is not None and segment.mark.time <= time else None
        if mark is not None:
            return mark.time, trades, mark
        return (int(trades.time[-1]) if len(trades) else None), trades, None

    def finish(self) -> None:
        """End the tape: see `SimulatedExchange.finish`."""
        self.exchange.finish(self.trades.symbol)

    def _mark_row(self, number: int) -> int:
        """Return the row of the first trade after a mark price, or the length of the tape if there is no such mark."""
        return int(self._marks.row[number]) if number < len(self._marks.time) else len(self.trades)

    def mark(self, number: int) -> MarkPrice:
        """Return the mark price with a number, counted from 0."""
        time, _, *stated = (column[number].item() for column in self._marks)
        return MarkPrice(self.trades.symbol, time, *stated)


def steps_until(players: Sequence[TapePlayer], time: int) -> Iterator[tuple[TapePlayer, Trades, MarkPrice | None]]:
    """Play several symbols' tapes up to and including a time, in the order of time; yield each step before playing it.

    A step ends with a trade to which orders react, or with a mark price; earlier trades of the other symbols are played
    before it. Within a millisecond the order is that of the players. So the margin of an account with several symbols
    does not depend on how `time` advances.
    """
    while True:
        due = [(*player.due(time), player) for player in players]
        stretches = [(end, number) for number, (end, *_) in enumerate(due) if end is not None]
        if not stretches:
            return
        end, number = min(stretches)
        for other, (_, trades, _, player) in enumerate(due):
            earlier = trades[: int(np.searchsorted(trades.time, end, side="right" if other < number else "left"))]
            if other != number and len(earlier):
                yield player, earlier, None
                player.play(len(earlier), False, 0)
        _, trades, mark, player = due[number]
        yield player, trades, mark
        player.play(len(trades), mark is not None, 0)
