"""Paper trading: what takes liquidity is done when it arrives, though no trade of the real market comes."""

from __future__ import annotations

import asyncio
from decimal import Decimal

from support.exchanges import BUY, SYMBOL, T0, a_coin, market

from voltrade.config import Config
from voltrade.engine.paper import PaperExchange
from voltrade.model import Event, OrderIntent, OrderUpdate, Outcome, Purpose


def test_an_order_fills_when_it_arrives_by_the_last_price_of_its_side() -> None:
    now, told = [T0], list[Event]()
    config = Config.from_parameters(latency_ms=20, slippage_bps=10.0, leverage=5)
    paper = PaperExchange(config, a_coin(), lambda: now[0])
    on_agg_trade, _ = paper.between(lambda *trade: None, told.append)

    async def story() -> None:
        on_agg_trade(1, 1_000, 5, T0, False)
        on_agg_trade(2, 998, 5, T0, True)
        reply = await paper.submit(OrderIntent(T0, market(BUY, 3), Purpose.ENTRY, 1, ""))
        assert reply.outcome is Outcome.ACCEPTED
        assert not [event for event in told if isinstance(event, OrderUpdate) and event.trade_id]
        now[0] += 20
        async with asyncio.timeout(10):
            while not any(isinstance(event, OrderUpdate) and event.status == "FILLED" for event in told):
                await asyncio.sleep(0.005)

    asyncio.run(story())
    (fill,) = (event for event in told if isinstance(event, OrderUpdate) and event.trade_id)
    # 1,000 slips by 1, and 1,001 by 1.001, which goes up to 2
    assert (fill.last_quantity, fill.last_price, fill.time) == (3, 1_003, T0 + 20)
    assert Decimal(fill.fee).scaleb(-8) == Decimal("1.5045")
    assert paper._exchange.position(SYMBOL).quantity == 3
