"""How many orders and aggTrades a second one venue process takes and gives, measured with a plain client on sockets.

The venue runs in lockstep in a process of its own; its clock moves on by the side channel, since Binance's limits of
300 orders in ten seconds count by it. Orders go one after the other over one connection, signed, while a user stream
listens; trades are read frame by frame and counted. Nothing of ccxt or aiohttp stands between. Run it from the
project's folder:

    python -m benchmarks.bench_venue
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
import json
import os
import subprocess
import sys
import tempfile
import time
from typing import Any
from urllib.parse import urlsplit

ORDERS, TRADES = 3_000, 200_000
GOAL_ORDERS, GOAL_TRADES = 1_000, 20_000
PER_ROUND = 145
"""Orders placed before all are cancelled and the clock moves on by half a window."""
KEY, SECRET = "sim-key", b"sim-secret"

Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]


async def connected(address: str, path: str = "") -> Streams:
    """Connect, and shake hands for a websocket where a path is given."""
    parts = urlsplit(address)
    reader, writer = await asyncio.open_connection(parts.hostname, parts.port)
    if path:
        key = base64.b64encode(os.urandom(16)).decode()
        head = f"GET {path} HTTP/1.1\r\nHost: venue\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        writer.write(f"{head}Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {key}\r\n\r\n".encode())
        await reader.readuntil(b"\r\n\r\n")
    return reader, writer


async def request(streams: Streams, method: str, path: str, query: str = "") -> Any:
    """Do one request over a kept connection."""
    reader, writer = streams
    head = f"{method} {path}?{query} HTTP/1.1\r\nHost: venue\r\nX-MBX-APIKEY: {KEY}\r\nContent-Length: 0\r\n\r\n"
    writer.write(head.encode())
    answer = await reader.readuntil(b"\r\n\r\n")
    length = int(answer.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0])
    return json.loads(await reader.readexactly(length))


def signed(query: str) -> str:
    return f"{query}&signature={hmac.new(SECRET, query.encode(), hashlib.sha256).hexdigest()}"


async def frame(reader: asyncio.StreamReader) -> bytes:
    """Read one frame of a server."""
    size = (await reader.readexactly(2))[1]
    if size > 125:
        size = int.from_bytes(await reader.readexactly(2 if size == 126 else 8), "big")
    return await reader.readexactly(size)


async def ask(streams: Streams, **step: Any) -> Any:
    """Take a step of the side channel; a client's frames are masked, here with zeros."""
    text = json.dumps(step).encode()
    streams[1].write(bytes((0x81, 0x80 | len(text), 0, 0, 0, 0)) + text)
    return json.loads(await frame(streams[0]))


async def orders_a_second(rest: str, ws: str) -> float:
    steps, http = await connected(ws, "/voltrade/lockstep"), await connected(rest)
    key = (await request(http, "POST", "/fapi/v1/listenKey"))["listenKey"]
    user = await connected(ws, f"/private/ws?listenKey={key}")
    go = await ask(steps, op="go")
    now = (await ask(steps, op="at", trade_id=go["trade_id"], marks=go["mark"], time=0))["time"]
    price = float((await request(http, "GET", "/fapi/v2/ticker/price", "symbol=BTCUSDT"))["price"]) * 0.97
    order = f"symbol=BTCUSDT&side=BUY&type=LIMIT&timeInForce=GTC&quantity=0.002&price={price:.1f}&newOrderRespType=ACK"
    took, placed = 0.0, 0
    while placed < ORDERS:
        now += 8_000
        await ask(steps, op="at", trade_id=go["trade_id"], marks=go["mark"], time=now)
        began = time.perf_counter()
        for _ in range(PER_ROUND):
            answer = await request(http, "POST", "/fapi/v1/order", signed(f"{order}&timestamp={now}"))
            assert answer.get("status") == "NEW", answer
        took += time.perf_counter() - began
        placed += PER_ROUND
        await request(http, "DELETE", "/fapi/v1/allOpenOrders", signed(f"symbol=BTCUSDT&timestamp={now}"))
        for _ in range(2 * PER_ROUND):
            await frame(user[0])
    return placed / took


async def trades_a_second(ws: str) -> float:
    steps = await connected(ws, "/voltrade/lockstep")
    market = await connected(ws, "/market/ws/btcusdt@aggTrade")
    hello = await ask(steps, op="hello", trade_id=0, marks=0)
    count, began = 0, time.perf_counter()
    while count < TRADES:
        go = await ask(steps, op="go")
        for _ in range(go["trades"]):
            await frame(market[0])
        count += go["trades"]
        if go["end"]:
            break
        await ask(steps, op="at", trade_id=go["trade_id"], marks=go["mark"], time=go["time"])
    assert hello["trade_id"] >= 0
    return count / (time.perf_counter() - began)


def main() -> int:
    with tempfile.TemporaryDirectory() as folder:
        command = [
            sys.executable,
            "-m",
            "voltrade",
            "venue",
            "--log",
            folder,
            "--hours",
            "24",
            "--mark-interval-s",
            "60",
        ]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as venue:
            assert venue.stdout is not None
            at = json.loads(venue.stdout.readline())
            try:
                orders = asyncio.run(orders_a_second(at["rest"], at["ws"]))
                trades = asyncio.run(trades_a_second(at["ws"]))
            finally:
                venue.terminate()
    measured = [("orders", orders, GOAL_ORDERS), ("aggTrades", trades, GOAL_TRADES)]
    for what, rate, goal in measured:
        print(f"{rate:10,.0f} {what} a second, {rate / goal:.1f} times what is wanted")
    return int(any(rate < goal for _, rate, goal in measured))


if __name__ == "__main__":
    sys.exit(main())
