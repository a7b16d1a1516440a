"""Paper sessions over recorded bytes of the real exchange, through real sockets, from the first frame to the replay."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from decimal import Decimal
from itertools import takewhile
from pathlib import Path
from typing import Any

import pytest
from support.oracles import Row
from support.recorded_streams import Frame, RecordedExchange, recorded_frames, with_agg_trades
from support.sessions import check_bars_of, facts_of

from voltrade import journal
from voltrade.engine import modes
from voltrade.engine.clocks import WallClock
from voltrade.engine.engine import Engine
from voltrade.exchange.trade_sequence import StreamCounts
from voltrade.model import Instrument, OrderUpdate, RoundTrip, Trades
from voltrade.runs.replay import INSTRUMENT, replay
from voltrade.strategy.rule_file import read_parameters

pytestmark = pytest.mark.recordings

QUICK: dict[str, Any] = {
    **{"ema_fast": 2, "ema_slow": 3, "rsi_length": 2, "atr_length": 2, "bollinger_length": 2, "vwap_length": 2},
    **{"cooldown_bars": 0, "min_stop_bps": 0.0, "stop_atr": 6.0, "take_profit_atr": 6.0, "taker_fee": 0.0},
    **{"max_consecutive_losses": 1_000, "slippage_bps": 0.0, "record_trades": "never"},
}


@dataclass(frozen=True)
class Played:
    """A session that is over."""

    run: Path
    exchange: RecordedExchange
    counts: StreamCounts

    @property
    def instrument(self) -> Instrument:
        return INSTRUMENT.validate_python(next(journal.read(self.run / "journal.db")).fact["instrument"])

    @property
    def last_trade_id(self) -> int:
        """Of the last trade in the journal."""
        return max(int(trades.id[-1]) for trades in blocks_of(self.run))


def blocks_of(run: Path) -> Iterator[Trades]:
    """Yield the blocks of trades in a run's journal."""
    for row in journal.read(run / "journal.db"):
        if row.kind in ("Trades", "Market"):
            yield from (fact for fact in (row.fact if row.kind == "Market" else [row.fact]) if isinstance(fact, Trades))


def play(exchange: RecordedExchange, run: Path, **parameters: Any) -> Played:
    """Trade a recording with money that isn't; the session's time is the recording's."""

    class RecordedClock(WallClock):
        def __init__(self) -> None:
            super().__init__(exchange.now_ns, exchange.now_ns)

    async def trade() -> StreamCounts:
        async with exchange:
            given = {**QUICK, "mode": "paper", "symbol": exchange.symbol, "venue": exchange.address, **parameters}
            run.mkdir(mode=0o700)
            record = {"parameters": read_parameters(given).parameters(), "epoch": run.name, "state": "starting"}
            (run / "run.json").write_text(json.dumps(record))
            engine, counts = Engine(run), []
            feed = modes.Wiring.feed
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(modes, "WallClock", RecordedClock)
                patch.setattr(modes.Wiring, "feed", lambda *args: counts.append(feed(*args)) or counts[-1])
                async with asyncio.timeout(120):
                    await engine.run()
            return counts[0].counts  # type: ignore[no-any-return]

    return Played(run, exchange, asyncio.run(trade()))


def trades_in(frames: Sequence[Frame], symbol: str) -> list[Row]:
    """Read trades out of the bytes, past everything of voltrade's."""
    events = (frame.event() for frame in frames if b'"e":"aggTrade"' in frame.text)
    return [
        (event["a"], Decimal(event["p"]), Decimal(event["q"]), event["T"], event["m"])
        for event in events
        if event["s"] == symbol
    ]


def check(played: Played) -> list[Any]:
    """Hold the record against itself: sealed, replayed without a difference, flat; return its facts."""
    record = json.loads((played.run / "run.json").read_text())
    assert (record["state"], record["end_reason"]) == ("ended", "DURATION_END"), record
    sealed = journal.verify(played.run / "journal.db")
    assert sealed.ok, sealed
    again = replay(played.run / "journal.db")
    assert again.differences == 0, again.shown
    facts = facts_of(played.run)
    fills = [fact for fact in facts if isinstance(fact, OrderUpdate) and fact.last_quantity]
    assert sum(fill.last_quantity * (1 if fill.side.name == "BUY" else -1) for fill in fills) == 0
    return facts


CLIPS: dict[str, tuple[tuple[str, ...], str, int, dict[str, Any]]] = {
    "2021, five symbols": (
        ("cryptofeed_BINANCE_FUTURES-1125a2.0.gz",),
        "20210721",
        2,
        {"symbol": "NEOUSDT", "threshold": 20, "history_s": 30, "duration_s": 75},
    ),
    "2021, four symbols": (
        ("cryptofeed_BINANCE_FUTURES.ws.1.0.gz",),
        "20210721",
        0,
        {"symbol": "SUSHIUSDT", "threshold": 100, "history_s": 10, "duration_s": 15},
    ),
    "2023, with marks": (
        ("btcusdt_20230404.dat.gz", "btcusdt_20230405.dat.gz"),
        "20251215",
        2,
        {"symbol": "BTCUSDT", "threshold": 5, "history_s": 80, "duration_s": 100},
    ),
    "2024, a clock that is behind": (
        ("btcusdt_20240718.gz", "btcusdt_20240719.gz"),
        "20251215",
        2,
        {"symbol": "BTCUSDT", "threshold": 5, "history_s": 120, "duration_s": 340},
    ),
    "2024, many trades": (
        ("btcusdt_20240808.gz",),
        "20251215",
        7,
        {"symbol": "BTCUSDT", "threshold": 10, "history_s": 120, "duration_s": 200},
    ),
}
"""Recordings, the day of the filters, the fewest round trips, and what is traded.

The filters of April 2021 have no `marketTakeBound`, without which no symbol is traded: those of July are served.
"""


SLACK_MS = 60_000
"""Of a recording that is read behind the session's end."""


def played_frames(files: Iterable[Path], given: dict[str, Any]) -> list[Frame]:
    """Read the frames of the history, of the session and of a minute more."""
    frames = recorded_frames(*files)
    first = next(frames)
    end = first.time + 1000 * (given["history_s"] + given["duration_s"]) + SLACK_MS
    return [first, *takewhile(lambda frame: frame.time < end, frames)]


LONG = ("2024, a clock that is behind", "2024, many trades")


@pytest.mark.parametrize("name", [pytest.param(name, marks=[pytest.mark.campaign] * (name in LONG)) for name in CLIPS])
def test_recorded_bytes_are_traded(tmp_path: Path, recordings: Path, name: str) -> None:
    """No frame is refused, no trade missing; each field of each bar is that of a fold of the same bytes in decimals."""
    files, day, least_trips, given = CLIPS[name]
    frames = played_frames((recordings / "usdm_ws_raw" / file for file in files), given)
    if given["symbol"] == "BTCUSDT":
        frames = list(with_agg_trades(frames))
    info = recordings / f"rest/exchangeInfo-usdm-{day}.json.gz"
    exchange = RecordedExchange(frames, given["symbol"], info, history_ms=given["history_s"] * 1000)
    played = play(exchange, tmp_path / "run", **{key: given[key] for key in ("threshold", "duration_s")})

    counts = played.counts
    assert (counts.refused, counts.gaps, counts.missing, counts.overflowed, counts.reconnects) == (0, 0, 0, 0, 0)
    read = counts.trades + counts.marks + counts.other_symbols + counts.ignored + counts.duplicates
    assert read >= 0.95 * exchange.sent > 500  # the last ones came when the session was over
    symbol = given["symbol"].lower()
    assert exchange.subscribed == [[f"{symbol}@aggTrade", f"{symbol}@markPrice@1s"]]
    assert {call for call, _ in exchange.asked} == {"time", "exchangeInfo", "klines", "premiumIndex", "aggTrades"}

    facts = check(played)
    assert sum(isinstance(fact, RoundTrip) for fact in facts) >= least_trips
    rows = [row for row in trades_in(frames, given["symbol"]) if row[0] <= played.last_trade_id]
    assert check_bars_of(played.run, rows, played.instrument, Decimal(given["threshold"])) >= 20
