"""Paper trading: what takes liquidity is done when it arrives, though no trade of the real market comes."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from decimal import Decimal
from pathlib import Path

import pytest
from support.exchanges import BUY, SYMBOL, T0, a_coin, market

from voltrade.config import Config
from voltrade.engine.paper import PaperExchange
from voltrade.errors import ConfigError
from voltrade.model import Event, Instrument, OrderIntent, OrderUpdate, Outcome, Purpose


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


def test_an_account_keeps_the_units_of_its_log_and_refuses_by_the_filters_of_now(tmp_path: Path) -> None:
    """Tick and step of the real market become 7 and 5: what was placed before is still whole, 8 coins are refused."""
    config, coin = Config.from_parameters(latency_ms=0, slippage_bps=0.0, leverage=5), a_coin()
    paper = PaperExchange(config, coin, lambda: T0, tmp_path)
    paper.close()
    coarser = replace(coin, tick_size=Decimal(7), step_size=Decimal(5), source="now")

    async def filters(symbol: str) -> Instrument:
        return coarser

    again = PaperExchange(config, coin, lambda: T0, tmp_path, filters)
    on_agg_trade, _ = again.between(lambda *trade: None, lambda event: None)
    on_agg_trade(1, 1_000, 50, T0, False)

    async def story() -> list[tuple[Outcome, int]]:
        replies = [await again.submit(OrderIntent(T0, market(BUY, 8, "a"), Purpose.ENTRY, 1, ""))]
        assert await again.filters(SYMBOL) == coarser
        replies += [
            await again.submit(OrderIntent(T0, market(BUY, lots, name), Purpose.ENTRY, 1, ""))
            for lots, name in ((8, "b"), (10, "c"))
        ]
        return [(reply.outcome, reply.code) for reply in replies]

    accepted = (Outcome.ACCEPTED, 0)
    assert asyncio.run(story()) == [accepted, (Outcome.REFUSED, -4023), accepted]
    assert (again.units.tick_size, again.units.step_size) == (coin.tick_size, coin.step_size)
    again.close()
    restarted = PaperExchange(config, coarser, lambda: T0, tmp_path, filters)
    assert restarted.units == again.units
    restarted.close()


def test_an_account_is_not_opened_by_filters_finer_than_its_log(tmp_path: Path) -> None:
    config = Config.from_parameters()
    PaperExchange(config, a_coin(), lambda: T0, tmp_path).close()
    finer = replace(a_coin(), tick_size=Decimal("0.1"))
    with pytest.raises(ConfigError, match=r"must be multiples of the paper account's 1 and 1, were 0\.1 and 1"):
        PaperExchange(config, finer, lambda: T0, tmp_path)
