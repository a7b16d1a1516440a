"""A history of trades, marks and funding rates, and a server that gives it as Binance's archive and REST do."""

from __future__ import annotations

import asyncio
import hashlib
import io
import threading
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import date
from typing import Any

import numpy as np
from aiohttp import web

from voltrade.data.archive_files import ArchiveFile
from voltrade.data.kinds import FUNDING, MARKS, TRADES, Kind, days_between, start_of
from voltrade.model import DAY_MS, Int64s, Trades

Run = Callable[..., tuple[int, str]]
"""Runs a command of data; returns its exit status and all that it printed."""

HEADERS: dict[Kind, str] = {
    TRADES: "agg_trade_id,price,quantity,first_trade_id,last_trade_id,transact_time,is_buyer_maker",
    MARKS: "open_time,open,high,low,close,volume,close_time,quote_volume,count,taker_buy_volume",
    FUNDING: "calc_time,funding_interval_hours,last_funding_rate",
}


def some_trades(symbol: str, first: date, days: int, a_day: int, first_id: int = 1_000, seed: int = 1) -> Trades:
    """Make trades that are spread over days, many of them in one millisecond."""
    draw = np.random.default_rng(seed)
    count = days * a_day
    times = start_of(first) + np.sort(draw.integers(0, days * DAY_MS, count))
    times[1::3] = times[0:-1:3][: len(times[1::3])]
    return Trades(
        symbol,
        id=first_id + np.arange(count, dtype=np.int64),
        price=600_000 + np.cumsum(draw.integers(-3, 4, count)),
        quantity=draw.integers(1, 5_000, count),
        time=np.sort(times),
        buyer_is_maker=draw.random(count) < 0.5,
    )


def texts(count: int, decimals: int) -> str:
    """Write a whole number of 10^-decimals as the wire does."""
    whole, part = divmod(count, 10**decimals)
    return f"{whole}.{part:0{decimals}d}"


@dataclass
class History:
    """What the exchange has: trades of one symbol in ticks of 0.1 and lots of 0.001, marks of each minute, funding."""

    trades: Trades
    now: int
    marks: Int64s = field(default_factory=lambda: np.empty(0, np.int64))
    """Begins of minutes; the mark is 60,000 and as many millionths as minutes since 1970."""
    funding: Int64s = field(default_factory=lambda: np.empty(0, np.int64))
    """Times; the rate is 0.0001."""

    def lines(self, kind: Kind, first: date, last: date) -> list[str]:
        """Rows of the archive's CSV for some days."""
        start, end = start_of(first), start_of(last) + DAY_MS
        if kind is MARKS:
            minutes = self.marks[(self.marks >= start) & (self.marks < end)]
            return [",".join(map(str, self.mark(int(at)))) for at in minutes]
        if kind is FUNDING:
            return [f"{at},8,0.00010000" for at in self.funding[(self.funding >= start) & (self.funding < end)]]
        rows = self.trades[slice(*np.searchsorted(self.trades.time, [start, end]))]
        return [
            f"{i},{texts(p, 1)},{texts(q, 3)},{2 * i},{2 * i + 1},{t},{str(m).lower()}"
            for i, p, q, t, m in zip(
                rows.id.tolist(),
                rows.price.tolist(),
                rows.quantity.tolist(),
                rows.time.tolist(),
                rows.buyer_is_maker.tolist(),
                strict=True,
            )
        ]

    @staticmethod
    def mark(at: int) -> list[Any]:
        """A mark kline as on the wire."""
        price = texts(6_000_000_000_000 + 100 * (at // 60_000 % 1_000_000), 8)
        return [at, price, price, price, price, "0", at + 59_999, "0", 60, "0"]

    def csv(self, file: ArchiveFile) -> str:
        return "\n".join([HEADERS[file.kind], *self.lines(file.kind, file.first, file.last)]) + "\n"


def zipped(name: str, text: str) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(name.replace(".zip", ".csv"), text)
    return buffer.getvalue()


def checksum(name: str, content: bytes) -> bytes:
    return f"{hashlib.sha256(content).hexdigest()}  {name}\n".encode()


class HistoryServer:
    """Serves a history: files that it was told to have, with their CHECKSUM, and REST.

    Attributes:
        requests: paths that were asked for, REST endpoints with their parameters.
        cut: bytes after which the connection of a file breaks, by its name; once.
        answers: statuses to answer with before the real answer, by endpoint or file name.
        most_at_once: the most files that were being sent at a time.
        takes_s: seconds before a file is sent.
    """

    def __init__(self, history: History) -> None:
        self.history = history
        self.files: dict[str, bytes] = {}
        self.requests: list[tuple[str, dict[str, str]]] = []
        self.cut: dict[str, int] = {}
        self.answers: dict[str, list[int]] = {}
        self.ranges: list[str] = []
        self.address = ""
        self.most_at_once = 0
        self.takes_s = 0.05
        self._sending = 0

    def put(self, file: ArchiveFile, text: str | None = None, stated: bytes | None = None) -> bytes:
        """Have a file: of the history, or of another text, and with a CHECKSUM of other bytes."""
        content = zipped(file.name, self.history.csv(file) if text is None else text)
        self.files[f"/{file.path}"] = content
        self.files[f"/{file.path}.CHECKSUM"] = checksum(file.name, stated or content)
        return content

    def put_days(self, kind: Kind, symbol: str, first: date, last: date) -> None:
        for day in days_between(first, last):
            self.put(ArchiveFile(kind, symbol, day, day))

    def count(self, part: str) -> int:
        """How often something was asked for whose path holds a text."""
        return sum(part in path for path, _ in self.requests)

    @contextmanager
    def running(self) -> Iterator[HistoryServer]:
        """Serve on loopback, in a thread of its own."""
        loop = asyncio.new_event_loop()
        thread = threading.Thread(target=loop.run_forever, daemon=True)
        thread.start()
        runner = asyncio.run_coroutine_threadsafe(self._start(), loop).result(10)
        try:
            yield self
        finally:
            asyncio.run_coroutine_threadsafe(runner.cleanup(), loop).result(10)
            loop.call_soon_threadsafe(loop.stop)
            thread.join(10)
            loop.close()

    async def _start(self) -> web.AppRunner:
        app = web.Application()
        app.router.add_get("/data/{path:.*}", self._file)
        app.router.add_get("/fapi/v1/{endpoint}", self._rest)
        runner = web.AppRunner(app, access_log=None)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        self.address = f"http://127.0.0.1:{runner.addresses[0][1]}"
        return runner

    async def _file(self, request: web.Request) -> web.StreamResponse:
        self.requests.append((request.path, {}))
        name = request.path.rpartition("/")[2]
        if status := self._told(name):
            return web.Response(status=status)
        content = self.files.get(request.path)
        if content is None:
            return web.Response(status=404)
        self._sending += 1
        self.most_at_once = max(self.most_at_once, self._sending)
        await asyncio.sleep(self.takes_s)  # as a real server takes its time: others may ask meanwhile
        self._sending -= 1
        start = 0
        if asked := request.headers.get("Range"):
            self.ranges.append(asked)
            start = int(asked.removeprefix("bytes=").rstrip("-"))
            if start >= len(content):
                return web.Response(status=416)
        reply = web.StreamResponse(status=206 if start else 200, headers={"Content-Length": str(len(content) - start)})
        await reply.prepare(request)
        if name in self.cut:
            await reply.write(content[start : self.cut.pop(name)])
            assert request.transport is not None
            request.transport.close()
            return reply
        await reply.write(content[start:])
        return reply

    async def _rest(self, request: web.Request) -> web.Response:
        endpoint, wanted = request.match_info["endpoint"], dict(request.query)
        self.requests.append((endpoint, wanted))
        if status := self._told(endpoint):
            body = {"code": -1003, "msg": "Too many requests."}
            return web.json_response(body, status=status, headers={"Retry-After": "7"})
        if endpoint == "exchangeInfo":
            return web.json_response(self._exchange_info())
        if wanted["symbol"] != self.history.trades.symbol:
            return web.json_response({"code": -1121, "msg": "Invalid symbol."}, status=400)
        answer = {"aggTrades": self._trades, "markPriceKlines": self._marks, "fundingRate": self._funding}[endpoint]
        return web.json_response(answer(wanted))

    def _told(self, name: str) -> int:
        statuses = self.answers.get(name)
        return statuses.pop(0) if statuses else 0

    def _trades(self, wanted: dict[str, str]) -> list[dict[str, Any]]:
        trades = self.history.trades
        trades = trades[: int(np.searchsorted(trades.time, self.history.now, side="right"))]
        if "fromId" in wanted:
            assert "startTime" not in wanted
            trades = trades[int(np.searchsorted(trades.id, int(wanted["fromId"]))) :]
        else:
            start, end = int(wanted["startTime"]), int(wanted["endTime"])
            assert 0 <= end - start < 3_600_000 - 1, "Binance refuses a span of an hour"
            trades = trades[slice(*np.searchsorted(trades.time, [start, end + 1]))]
        trades = trades[: int(wanted["limit"])]
        columns = (trades.id, trades.price, trades.quantity, trades.time, trades.buyer_is_maker)
        return [
            {"a": i, "p": texts(p, 1), "q": texts(q, 3), "nq": "0", "f": 2 * i, "l": 2 * i + 1, "T": t, "m": m}
            for i, p, q, t, m in zip(*(column.tolist() for column in columns), strict=True)
        ]

    def _marks(self, wanted: dict[str, str]) -> list[list[Any]]:
        start, end = int(wanted["startTime"]), min(int(wanted["endTime"]), self.history.now)
        marks = self.history.marks
        marks = marks[(marks >= start) & (marks <= end)][: int(wanted["limit"])]
        return [self.history.mark(int(at)) for at in marks]

    def _funding(self, wanted: dict[str, str]) -> list[dict[str, Any]]:
        start, end = int(wanted["startTime"]), min(int(wanted["endTime"]), self.history.now)
        times = self.history.funding
        times = times[(times >= start) & (times <= end)][: int(wanted["limit"])]
        symbol = self.history.trades.symbol
        return [
            {"symbol": symbol, "fundingTime": int(at), "fundingRate": "0.00010000", "markPrice": "60000.0"}
            for at in times
        ]

    def _exchange_info(self) -> dict[str, Any]:
        from voltrade.simulated.symbols import shipped_exchange_info

        shipped = shipped_exchange_info()
        entry = {**shipped["symbols"][0], "symbol": self.history.trades.symbol}
        return {**shipped, "symbols": [entry]}
