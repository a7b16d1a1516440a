"""All real recordings and all sample messages of other projects through the parsers that a session uses.

What is refused, and what is left aside, is listed here with its reason and its number: a change of a parser shows.
"""

from __future__ import annotations

import asyncio
import gzip
import json
import logging
import re
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import orjson
import pytest
from support.builders import an_instrument
from support.recorded_streams import recorded_frames, with_agg_trades

from voltrade.data.tape import load_trades
from voltrade.errors import DataError, ExchangeError
from voltrade.exchange.binance import LIVE, BinanceRestClient, BinanceWSManager, connect
from voltrade.exchange.client import Response, response_of
from voltrade.exchange.fields import Fields
from voltrade.exchange.filters import instrument_of
from voltrade.exchange.messages import MessageReader
from voltrade.exchange.responses import classify
from voltrade.exchange.streams import LISTEN_KEY_RENEWAL_MS
from voltrade.model import Event, Instrument, MarkPrice, Outcome
from voltrade.simulated.symbols import shipped_instrument

pytestmark = pytest.mark.recordings

QUOTES = ("USDT", "USDC", "BUSD")


def fine(symbol: str) -> Instrument:
    """An instrument with tick and step as fine as 1e-8 allows; recorded prices and sizes are multiples of them."""
    quote = next((quote for quote in QUOTES if symbol.endswith(quote)), "USDT")
    base = symbol.removesuffix(quote)
    return an_instrument(symbol, tick="0.00001", step="0.001", base_asset=base, quote_asset=quote, max_price=10**12)


def name_of(event: Event) -> str:
    """Return what an event is, of a mark price also whether the exchange told it."""
    return "made" if isinstance(event, MarkPrice) and event.is_last_price else type(event).__name__


class Listener:
    """The streams of a session, to which frames are given by hand."""

    def __init__(self, symbol: str) -> None:
        self.events: list[str] = []
        exchange = connect(LIVE, None, lambda: 1, 5_000)
        self.manager = BinanceWSManager(
            *(exchange, BinanceRestClient(exchange), fine(symbol)),
            on_agg_trade=lambda *trade: self.events.append("aggTrade"),
            on_event=lambda event: self.events.append(name_of(event)),
            clock=lambda: 1,
        )
        self._client = SimpleNamespace(url="wss://somewhere/market/ws/0")

    def take(self, message: Any) -> None:
        assert self.manager._on_frame(self._client, message)
        assert self.manager._exchange.frame_handler_failure is None


# --- recorded frames and trades ---------------------------------------------------------------------------------------

CLIPS = {
    ("btcusdt_20230404.dat.gz", "btcusdt_20230405.dat.gz"): ("20230404T2358", 12_935, 1),
    ("btcusdt_20240718.gz", "btcusdt_20240719.gz"): ("20240718T2357", 10_701, 0),
    ("btcusdt_20240808.gz",): ("20240808T2354", 21_313, 0),
}
"""Recordings of BTCUSDT; their trades as a file, how many there are, and how many of them are the insurance fund's."""


FRAMES = {
    "trade": 12_935 + 10_701 + 21_313,  # single trades of BTCUSDT, the same as in `usdm_trades`
    "aggTrade": 91 + 574,
    "bookTicker": 44_205 + 52_260 + 66_089 + 613 + 3_424,
    "depthUpdate": 16_110 + 9_022 + 6_551 + 764 + 4_423,
    "markPriceUpdate": 514,
    "kline": 67,
}
"""Recorded frames by kind, each as a sum over the recordings."""


def test_every_recorded_frame_is_read(recordings: Path) -> None:
    """None is refused; a session needs neither single trades nor quotes, depth and klines."""
    listeners: dict[tuple[Path, str], Listener] = {}
    kinds: Counter[str] = Counter()
    for path in sorted((recordings / "usdm_ws_raw").glob("*.gz")):
        for frame in recorded_frames(path):
            message = orjson.loads(frame.text)
            place = path, message["data"]["s"]
            kinds[message["data"]["e"]] += 1
            if place not in listeners:
                listeners[place] = Listener(place[1])
            listeners[place].take(message)
    counts = [each.manager.counts for each in listeners.values()]
    events = sum((Counter(each.events) for each in listeners.values()), Counter[str]())
    assert (kinds, kinds.total()) == (FRAMES, 249_656)
    assert (sum(each.refused for each in counts), sum(each.ignored for each in counts)) == (0, 248_477)
    assert (events["aggTrade"], events["MarkPrice"], events["FeedGap"]) == (91 + 574, 514, 0)
    assert (events["Trouble"], events["made"]) == (5, 116), "five recordings are without mark prices, over a minute"


@pytest.mark.parametrize("names", CLIPS, ids=lambda names: names[0])
def test_recorded_trades_are_the_same_by_file_and_by_stream(recordings: Path, names: tuple[str, ...]) -> None:
    """As a file they are joined by `data`, as frames by the tests' server; both by the rule of the exchange."""
    clip, raw, funds = CLIPS[names]
    btc = shipped_instrument("BTCUSDT")
    [path] = (recordings / "usdm_trades").glob(f"*{clip}*.csv.gz")
    tape = load_trades(path, btc)
    frames = with_agg_trades(recorded_frames(*(recordings / "usdm_ws_raw" / name for name in names)))
    events = [frame.event() for frame in frames if frame.text.startswith(b'{"stream":"btcusdt@aggTrade"')]
    reader = MessageReader(btc)
    assert [reader.agg_trade(event) for event in events] == list(tape.trades.rows())
    assert (tape.report.rows_read, sum(event["l"] - event["f"] + 1 for event in events)) == (raw, raw - funds)


TRADES = {
    # folder of the recordings: trades that are read, and those that aren't
    "usdm_trades": (12_934 + 10_701 + 21_313, 1),  # single trades; one is the insurance fund's, which fills no order
    "usdm_ws_raw": (91 + 574, 0),  # aggTrades; the single trades there are those of `usdm_trades` once more
    "rest": (1_000, 0),  # aggTrades
    "spot_trades": (88_619, 451_466),  # a file without ids, in which no gap could be seen, is refused whole
}
"""All recorded trades of the real exchange."""
READ, NOT_READ = 135_232, 451_467


def test_every_recorded_trade_is_read_or_refused_for_a_reason(recordings: Path) -> None:
    btc, paths = shipped_instrument("BTCUSDT"), sorted((recordings / "usdm_trades").glob("*.gz"))
    clips = [load_trades(path, btc) for path in paths]
    single = [clip.report.rows_read for clip in clips]
    assert [sum(single) - 1, 1] == [*TRADES["usdm_trades"]]
    assert [len(clip.trades) for clip in clips] == [5_252, 5_554, 10_447]  # joined to aggTrades
    [path] = (recordings / "rest").glob("*aggTrades*")
    rows = json.loads(gzip.decompress(path.read_bytes()))
    reader = MessageReader(fine("CLUSDT"))
    assert len({reader.agg_trade(row)[0] for row in rows}) == TRADES["rest"][0]
    [path] = (recordings / "spot_trades").glob("LTCUSDT*.csv.gz")
    assert len(load_trades(path, shipped_instrument("LTCUSDT")).trades) == TRADES["spot_trades"][0]
    [path] = (recordings / "spot_trades").glob("*.parquet")
    with pytest.raises(DataError, match="id"):
        load_trades(path, btc)
    assert [sum(counts) for counts in zip(*TRADES.values(), strict=True)] == [READ, NOT_READ]


# --- samples ----------------------------------------------------------------------------------------------------------

Sample = tuple[str, Any]
"""What it answers, such as `GET /fapi/v1/order`, or `frame`; and the decoded message."""

NAUTILUS_CALLS = {
    "account_info_v2": "GET /fapi/v2/account",
    "balance": "GET /fapi/v2/balance",
    "open_algo_orders": "GET /fapi/v1/openAlgoOrders",
    "order_response": "POST /fapi/v1/order",
    "position_risk": "GET /fapi/v3/positionRisk",
    "account_orders": "GET /fapi/v1/allOrders",
    "account_position_side_dual": "GET /fapi/v1/positionSide/dual",
    "account_positions_hedge": "GET /fapi/v3/positionRisk",
    "account_positions_one_way": "GET /fapi/v3/positionRisk",
    "account_symbol_config": "GET /fapi/v1/symbolConfig",
    "account_trades": "GET /fapi/v1/userTrades",
    "market_agg_trades": "GET /fapi/v1/aggTrades",
    "market_exchange_info": "GET /fapi/v1/exchangeInfo",
    "wallet_commission_rate_btcusdt": "GET /fapi/v1/commissionRate",
    "wallet_commission_rate_btcusdt_quarterly": "GET /fapi/v1/commissionRate",
    "wallet_commission_rate_ethusdt": "GET /fapi/v1/commissionRate",
}
"""What the answers in nautilus_trader's files answer; market data that no session reads is not named."""


def samples(folder: Path) -> Iterator[Sample]:
    """Yield every message of the collected protocol samples."""
    for path in sorted((folder / "binance_net_endpoints").rglob("*.txt")):
        verb, call, _, *body = path.read_text(encoding="utf-8-sig").splitlines()
        yield f"{verb} {call}", json.loads("\n".join(body))
    for path in sorted((folder / "binance_net_subscriptions").glob("*.txt")):
        text = re.sub(r"\|(\d+)\|", r"\1", path.read_text(encoding="utf-8-sig"))
        for line in re.split(r"^(?=[><=] )", text, flags=re.MULTILINE):
            if line.startswith(("<", "=")):
                yield "frame", json.loads(line[1:])
    for path in sorted(folder.glob("nautilus_*/http_*/*.json")):
        name = path.stem.removeprefix("http_futures_")
        yield NAUTILUS_CALLS.get(name, f"GET {name}"), json.loads(path.read_text())
    for path in sorted(folder.glob("nautilus_*/[wmu]*/*.json")):
        yield "frame", json.loads(path.read_text())
    for path in sorted((folder / "richtraders_futures/response").glob("*.json")):
        body = json.loads(path.read_text())
        yield ("frame", body) if "id" not in body else (f"ws-api {path.stem}", body)
    for line in (folder / "unicorn_fy_usdm_messages.jsonl").read_text().splitlines():
        yield "frame", json.loads(line)["message"]


def read_frame(message: Any, caplog: pytest.LogCaptureFixture) -> str:
    """Give a frame to the streams of the symbol that it is about; return what becomes of it."""
    body = message.get("data", message) if isinstance(message, dict) else {}
    body = body if isinstance(body, dict) else {"e": "list"}
    part = body.get("o") if isinstance(body.get("o"), dict) else body
    positions = (body.get("a") or {}).get("P") if isinstance(body.get("a"), dict) else None
    symbol = part.get("s") or (positions[0]["s"] if positions else "BTCUSDT")
    listener = Listener(symbol if isinstance(symbol, str) else "BTCUSDT")
    caplog.clear()
    listener.take(message)
    counts, kind = listener.manager.counts, body.get("e", "list" if isinstance(message, list) else "control")
    if counts.refused:
        why = caplog.records[-1].getMessage().partition(", was")[0] if caplog.records else "refused: is no object"
        return f"{kind} {why.removeprefix('message ')}"
    if counts.other_symbols:
        return f"{kind}: of another symbol"
    return f"{kind}: {'+'.join(listener.events) or 'left aside'}"


def each(read: Callable[[MessageReader], Callable[[Any], object]]) -> Callable[[Any], None]:
    """Return what reads an answer of one row or many, each by the filters of its symbol."""

    def read_all(body: Any) -> None:
        for row in body if isinstance(body, list) else [body]:
            read(MessageReader(fine(row.get("symbol", "BTCUSDT"))))(row)

    return read_all


def _account(body: Any) -> None:
    reader = MessageReader(fine("BTCUSDT"))
    reader.wallet(body)
    reader.position_lots(body)


def _settings(body: Any) -> None:
    for row in body:
        MessageReader(fine(row["symbol"])).symbol_config(body)


def _positions(rows: Any) -> None:
    """Each row by its own symbol: a session reads that of its symbol alone."""
    for row in rows:
        MessageReader(fine(row["symbol"])).position([row], 5, "isolated")


def _listen_key(body: Any) -> None:
    asyncio.run(answering(body).listen_key())


def _renewal(body: Any) -> None:
    """A renewal that was answered counts, and the answer may name another key: then the stream is dialled anew."""
    listener = Listener("BTCUSDT")
    manager = listener.manager
    manager._rest, manager._listen_key = answering(body), "an older one"
    asyncio.run(manager._renew_listen_key(5))
    if manager._renew_at != 5 + LISTEN_KEY_RENEWAL_MS or manager._given_key != body.get("listenKey", ""):
        raise DataError(f"PUT listenKey: must name the key, was {body}")


def answering(body: Any) -> BinanceRestClient:
    """Return a client to which every request is answered so."""
    rest = BinanceRestClient(connect(LIVE, None, lambda: 1, 5_000))

    async def ask(call: str, params: Any = None) -> Response:
        return Response(200, body=body)

    rest.ask = ask  # type: ignore[method-assign]
    return rest


def _filters(body: Any) -> None:
    for row in body["symbols"]:
        instrument_of(body, row["symbol"], "sample")


READERS: dict[str, Callable[[Any], object]] = {
    "/fapi/v1/order": each(lambda reader: reader.order),
    "/fapi/v1/openOrders": each(lambda reader: reader.order),
    "/fapi/v1/allOrders": each(lambda reader: reader.order),
    "/fapi/v1/algoOrder": each(lambda reader: reader.algo_order),
    "/fapi/v1/openAlgoOrders": each(lambda reader: reader.algo_order),
    "/fapi/v1/userTrades": each(lambda reader: reader.user_trade),
    "/fapi/v1/aggTrades": each(lambda reader: reader.agg_trade),
    "/fapi/v1/commissionRate": each(lambda reader: reader.fee_rates),
    "/fapi/v3/account": _account,
    "/fapi/v3/positionRisk": _positions,
    "/fapi/v1/symbolConfig": _settings,
    "/fapi/v1/exchangeInfo": _filters,
    "/fapi/v1/time": lambda body: Fields("time", body).integer("serverTime"),
    "/fapi/v1/accountConfig": lambda body: [Fields("accountConfig", body).flag(name) for name in MODES],
    "/fapi/v1/premiumIndex": lambda body: Fields("premiumIndex", body).decimal("markPrice"),
    "POST /fapi/v1/listenKey": _listen_key,
    "PUT /fapi/v1/listenKey": _renewal,
}
"""What a session reads an answer with, by path, or by method and path."""
MODES = ("canTrade", "dualSidePosition", "multiAssetsMargin")


def read_answer(call: str, body: Any) -> str:
    """Read an answer as a session does; return what becomes of it."""
    if call.startswith("ws-api"):
        found = response_of(body["status"], body.get("error", body.get("result")), "")
        outcome = classify(found.status, found.code, found.text, "POST")
        if outcome is Outcome.ACCEPTED and "orderId" in body["result"]:
            each(lambda reader: reader.order)(body["result"])
        return f"{call}: {outcome.name}"
    reader = READERS.get(call) or READERS.get(call.split()[-1])
    if reader is None:
        return "not asked for by any session"
    try:
        reader(body)
    except (DataError, ExchangeError) as error:
        return f"{call} refused: {str(error).partition(', was')[0]}"
    return f"{call}: read"


REFUSED = {
    "ACCOUNT_UPDATE refused: ACCOUNT_UPDATE.a.P[0].ps must be one of BOTH": 1,  # hedge mode, in which nobody trades
    "ACCOUNT_UPDATE refused: ACCOUNT_UPDATE.a.P[1].ps must be one of BOTH": 3,
    "list refused: a frame that is no JSON object": 3,  # streams of all symbols, such as !markPrice@arr
}
"""What is refused, and why."""
EVENTS = {
    "aggTrade: aggTrade": 4,  # one of spot, whose quantity is read to the nearest
    "markPriceUpdate: MarkPrice": 3,
    "ORDER_TRADE_UPDATE: OrderUpdate": 22,
    "ALGO_UPDATE: AlgoUpdate": 7,
    "ACCOUNT_UPDATE: AccountUpdate": 1,
    "ACCOUNT_CONFIG_UPDATE: StreamStatus+StreamStatus": 4,  # the account is read again
    "CONDITIONAL_ORDER_TRIGGER_REJECT: StreamStatus+StreamStatus": 1,
    "MARGIN_CALL: StreamStatus+StreamStatus": 2,
}
"""What becomes an event of a session."""
ANSWERS = {
    "GET /fapi/v1/aggTrades: read": 2,  # of spot, from its docs: prices that are read to the nearest
    **{"GET /fapi/v1/order: read": 1, "POST /fapi/v1/order: read": 2, "PUT /fapi/v1/order: read": 1},
    **{"DELETE /fapi/v1/order: read": 1, "GET /fapi/v1/allOrders: read": 2, "GET /fapi/v1/openOrders: read": 1},
    **{"GET /fapi/v1/algoOrder: read": 1, "POST /fapi/v1/algoOrder: read": 1, "DELETE /fapi/v1/algoOrder: read": 1},
    **{"GET /fapi/v1/openAlgoOrders: read": 2, "GET /fapi/v1/userTrades: read": 2, "GET /fapi/v3/account: read": 1},
    **{"GET /fapi/v3/positionRisk: read": 4, "GET /fapi/v1/symbolConfig: read": 2, "GET /fapi/v1/time: read": 1},
    **{"GET /fapi/v1/accountConfig: read": 1, "GET /fapi/v1/commissionRate: read": 4},
    **{"GET /fapi/v1/exchangeInfo: read": 2, "GET /fapi/v1/premiumIndex: read": 1},
    **{"POST /fapi/v1/listenKey: read": 1, "PUT /fapi/v1/listenKey: read": 1},
    **{"ws-api login: ACCEPTED": 1, "ws-api login_fail: REFUSED": 1, "ws-api place_fail: REFUSED": 1},
    **{"ws-api order_place: ACCEPTED": 1, "ws-api order_cancel: ACCEPTED": 1, "ws-api snapshot: ACCEPTED": 1},
    "ws-api userdatastream_subscribe: ACCEPTED": 1,
}
"""Answers that a session reads; those of the websocket API are orders, and refusals, as REST has them."""
LEFT_ASIDE = {
    **{"24hrMiniTicker": 2, "24hrTicker": 4, "GRID_UPDATE": 1, "STRATEGY_UPDATE": 1, "TRADE_LITE": 3, "bookTicker": 6},
    **{"compositeIndex": 2, "continuous_kline": 2, "contractInfo": 1, "control": 25, "depthUpdate": 8},
    **{"forceOrder": 4, "kline": 4, "list": 1, "trade": 1},
}
"""Events that are counted and change nothing; `control` are the answers to a SUBSCRIBE."""
NOT_ASKED = 91
"""Answers to what no session asks for: statistics, transfers, other products."""


@pytest.mark.parametrize(
    ("call", "body", "refused"),
    [
        ("POST /fapi/v1/listenKey", {"nonsense": 1}, "must be letters and digits"),
        ("PUT /fapi/v1/listenKey", {"listenKey": 5}, "must name the key"),
        ("GET /fapi/v3/positionRisk", [{"symbol": "OTHERUSDT", "positionAmt": None}], "positionRisk"),
        ("GET /fapi/v1/time", {"serverTime": "now"}, "time.serverTime"),
        ("GET /fapi/v1/accountConfig", {"canTrade": 1}, "accountConfig.canTrade"),
    ],
)
def test_what_is_no_answer_is_not_read(call: str, body: Any, refused: str) -> None:
    assert re.search(refused, read_answer(call, body))


FILES = {"binance_net_endpoints": 89, "binance_net_subscriptions": 24, "nautilus_integration_resources": 51}
FILES |= {"nautilus_test_data_futures": 28, "richtraders_futures": 17}
"""Files of samples by project; `samples` reads them all, but for the five requests of `richtraders_futures`."""


def test_no_file_of_samples_is_passed_over(recordings: Path) -> None:
    found = Counter(
        path.relative_to(recordings / "messages").parts[0] for path in recordings.rglob("messages/*/**/*.*")
    )
    assert found == FILES


def test_every_sample_message_is_read(recordings: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING)
    told: Counter[str] = Counter()
    for call, body in samples(recordings / "messages"):
        told[read_frame(body, caplog) if call == "frame" else read_answer(call, body)] += 1
    aside = {f"{kind}: left aside": count for kind, count in LEFT_ASIDE.items()}
    assert told == {**REFUSED, **EVENTS, **ANSWERS, **aside, "not asked for by any session": NOT_ASKED}
