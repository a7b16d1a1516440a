"""An exchange whose name can't be resolved, or that speaks no TLS: what was not sent is known to be not sent."""

from __future__ import annotations

import asyncio
import socket
from typing import Any

import pytest

from voltrade.errors import ExchangeError
from voltrade.exchange.binance import BinanceRestClient, Endpoint, connect
from voltrade.exchange.client import UsdmExchange
from voltrade.exchange.credentials import Credentials
from voltrade.model import LookupOrder, OrderIntent, OrderRequest, OrderType, Outcome, Purpose, Side
from voltrade.simulated.symbols import shipped_instrument

ENTRY = OrderIntent(0, OrderRequest("BTCUSDT", "vt-e-1e1", Side.BUY, OrderType.MARKET, 10), Purpose.ENTRY, 1, "")
LOOKUP = LookupOrder(0, "BTCUSDT", "vt-e-1e1", False, "")


async def ask(rest: str) -> tuple[Any, Any]:
    """Send an order and a look-up; the account can't be read."""
    exchange: UsdmExchange = connect(
        Endpoint("demo", rest, "wss://x"), Credentials("sim-key", "sim-secret"), lambda: 1, 5_000, 2_000
    )
    client = BinanceRestClient(exchange)
    client.use(shipped_instrument("BTCUSDT"))
    try:
        with pytest.raises(ExchangeError):
            await client.snapshot("BTCUSDT", 0)
        return await client.submit(ENTRY), await client.lookup(LOOKUP)
    finally:
        await exchange.close()


@pytest.mark.parametrize("fault", ["no name", "no TLS"])
def test_an_order_that_could_not_leave_is_refused_and_a_question_proves_nothing(
    fault: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def story() -> tuple[Any, Any]:
        if fault == "no name":
            return await ask("https://exchange.invalid")
        server = await asyncio.start_server(lambda reader, writer: writer.close(), "127.0.0.1", 0)
        async with server:
            return await ask(f"https://127.0.0.1:{server.sockets[0].getsockname()[1]}")

    def unresolved(*args: Any, **kwargs: Any) -> Any:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    if fault == "no name":
        monkeypatch.setattr(socket, "getaddrinfo", unresolved)
    order, question = asyncio.run(story())
    assert (order.outcome, order.code) == (Outcome.REFUSED, 0)
    assert order.text.startswith("not sent")
    assert question.outcome is not Outcome.ACCEPTED
    assert question.code != -2013
