"""Plays a tape of trades through a simulated exchange, with its recorded mark prices or made ones."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Literal, NamedTuple

import numpy as np

from voltrade.config import Config, milliseconds
from voltrade.model import MONEY, NEVER, Funding, Instrument, MarkPrice, Marks, Segment, Trades
from voltrade.simulated.event_log import Log
from voltrade.simulated.exchange import SimulatedExchange
from voltrade.simulated.margin_account import Terms
from voltrade.simulated.mark_columns import MarkColumns, mark_columns
from voltrade.simulated.symbols import SymbolRules, shipped_instrument


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
    config: Config,
    symbols: Sequence[str | Instrument],
    *,
    clock: int = 0,
    log: Log | None = None,
    rules: Mapping[str, SymbolRules] | None = None,
) -> SimulatedExchange:
    """Return the exchange by a session's settings; `clock` is its time at the start, ms UTC.

    Backtest, paper and venue all use this, so that they simulate alike.

    Args:
        symbols: shipped symbols by name, others by their filters.
        rules: of symbols that do not use the shipped rules.

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
        fill_horizon_ms=milliseconds(execution.fill_horizon_s),
        leverage=risk.leverage,
        margin_type=risk.margin_type,
    )
    instruments = [shipped_instrument(symbol) if isinstance(symbol, str) else symbol for symbol in symbols]
    return SimulatedExchange(instruments, terms, clock=clock, log=log, rules=rules)


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
    """Plays a tape of one symbol's trades, and its mark prices (recorded or made), through a simulated exchange.

    `horizon` looks ahead without playing; `play` plays. A mark price of time t comes after all trades before t and
    before those at t or later. The player of a restored exchange continues after its last trade and mark price.

    Attributes:
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
        self.market.follow(trades)
        mark = self.market.mark
        self.marks_played = int(np.searchsorted(self._marks.time, mark.time, side="right")) if mark else 0
        self._nothing = trades[:0]
        self._made_mark: tuple[int, MarkPrice] | None = None
        """The mark price that was made last, with its number: the next one is looked at before each trade."""

    @property
    def trades_played(self) -> int:
        """Number of trades played."""
        return self.market.played

    def horizon(self) -> Segment:
        """Return what comes next, at most a batch of trades.

        That is up to and including a trade with an effect or a mark price, or up to the arrival of an order.
        """
        start, marks_left = self.trades_played, self.marks_played < len(self._marks.time)
        next_mark, arrival = self._mark_row(self.marks_played), self.market.next_arrival
        stop = next_mark if self.batch is None else min(next_mark, start + self.batch)
        before = stop if arrival == NEVER else start + int(self.trades.time[start:stop].searchsorted(arrival))
        acting = self.market.first_acting(self.trades, start, before)
        if acting < before:
            end = acting + 1 == len(self.trades) and not marks_left
            return Segment(self.trades[start : acting + 1], None, end)
        mark = self.mark(self.marks_played) if stop == next_mark and marks_left else None
        is_last = stop == len(self.trades) and not marks_left
        if before < stop or (arrival < NEVER and (is_last or (mark is not None and mark.time >= arrival))):
            return Segment(self.trades[start:before], None, False, arrival)
        return Segment(self.trades[start:stop], mark, is_last)

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
    def next_time(self) -> int:
        """Time of the next trade, mark price or arrival of an order, ms; NEVER after the last."""
        trade = int(self.trades.time[self.trades_played]) if self.trades_played < len(self.trades) else NEVER
        mark = int(self._marks.time[self.marks_played]) if self.marks_played < len(self._marks.time) else NEVER
        return min(trade, mark, self.market.next_arrival)

    def due(self, time: int) -> Stretch:
        """Return the part of the horizon up to a time."""
        if self.next_time > time:
            return Stretch(None, self._nothing)
        segment = self.horizon()
        trades = segment.trades
        if len(trades) and trades.time[-1] > time:
            trades = trades[: int(trades.time.searchsorted(time, side="right"))]
        elif segment.arrival is not None and segment.arrival <= time:
            return Stretch(segment.arrival, trades, arrives=True)
        elif segment.mark is not None and segment.mark.time <= time:
            return Stretch(segment.mark.time, trades, segment.mark)
        return Stretch(int(trades.time[-1]) if len(trades) else None, trades)

    def finish(self) -> None:
        """End the tape: see `SimulatedExchange.finish`."""
        self.exchange.finish(self.trades.symbol)

    def jump(self, trade_id: int, count: int, ticks: int, *, marks: bool) -> None:
        """Move the prices of `count` trades by some ticks, from the trade with this id on; `marks`: of marks too."""
        self.market.jump(trade_id, count, ticks)
        assert self.market.tape is not None
        self.trades = self.market.tape
        if marks:
            first = int(np.searchsorted(self.trades.id, trade_id))
            moved = (self._marks.row > first) & (self._marks.row <= first + count)
            self._marks = self._marks._replace(price_e8=self._marks.price_e8 + moved * ticks * self.market.tick_e8)
            self._made_mark = None

    def spread(self, trade_id: int, ticks: int, lots: int) -> None:
        """Move prices and quantities off multiples of so many ticks and lots, from the trade with this id on."""
        self.market.spread(trade_id, ticks, lots)
        assert self.market.tape is not None
        self.trades = self.market.tape

    def _mark_row(self, number: int) -> int:
        """Return the row of the first trade after a mark price, or the length of the tape if there is no such mark."""
        return int(self._marks.row[number]) if number < len(self._marks.time) else len(self.trades)

    def mark(self, number: int) -> MarkPrice:
        """Return the mark price with a number, counted from 0."""
        if self._made_mark is None or self._made_mark[0] != number:
            time, _, *stated = (column[number].item() for column in self._marks)
            self._made_mark = number, MarkPrice(self.trades.symbol, time, *stated)
        return self._made_mark[1]


class Stretch(NamedTuple):
    """The next part of one of several tapes."""

    end: int | None
    """Time of its last event, ms; None if there is none."""
    trades: Trades
    mark: MarkPrice | None = None
    arrives: bool = False
    """Whether an order arrives at its end."""


def steps_until(players: Sequence[TapePlayer], time: int) -> Iterator[tuple[TapePlayer, Trades, MarkPrice | None]]:
    """Play several symbols' tapes up to and including a time, in the order of time; yield each step before playing it.

    A step ends with a trade to which orders react, with a mark price, or with the arrival of an order; earlier trades
    of the other symbols are played before it. Within a millisecond arrivals come first, then the order is that of the
    players. So the margin of an account with several symbols does not depend on how `time` advances.
    """
    if len(players) == 1:  # as below, where nobody else is to be played before
        [player] = players
        while (stretch := player.due(time)).end is not None:
            yield player, stretch.trades, stretch.mark
            player.play(len(stretch.trades), stretch.mark is not None, stretch.end)
        return
    while True:
        due = [player.due(time) for player in players]
        ends = [(each.end, not each.arrives, number) for number, each in enumerate(due) if each.end is not None]
        if not ends:
            return
        end, _, number = min(ends)
        for other, (player, stretch) in enumerate(zip(players, due, strict=True)):
            if other == number:
                continue
            side: Literal["left", "right"] = "right" if other < number and not due[number].arrives else "left"
            earlier = stretch.trades[: int(np.searchsorted(stretch.trades.time, end, side=side))]
            if len(earlier):
                yield player, earlier, None
                player.play(len(earlier), False, 0)
        player, step = players[number], due[number]
        yield player, step.trades, step.mark
        player.play(len(step.trades), step.mark is not None, end)
