"""Where requests go: Binance's hosts of the mode, the pinned origin alone, no redirect, and a proxy or a refusal."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from aiohttp import web
from support.fake_binance import KEY, FakeBinance, Say
from test_binance import a_harness, an_intent

from voltrade.config import Config
from voltrade.data.sources import Http
from voltrade.engine.demo_check.frames import FrameRecord, Listener
from voltrade.engine.modes import reach
from voltrade.errors import ConfigError, DataError, ExchangeError
from voltrade.exchange.binance import DEMO, LIVE, BinanceRestClient, Endpoint, connect, endpoint_of, exchange_of
from voltrade.exchange.client import UsdmExchange
from voltrade.exchange.credentials import Credentials
from voltrade.exchange.proxies import proxy_of, without_password
from voltrade.exchange.responses import REDIRECTED
from voltrade.model import Outcome

PROXIES = ("HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy", "NO_PROXY", "no_proxy")


@pytest.fixture(autouse=True)
def _no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in PROXIES:
        monkeypatch.delenv(name, raising=False)


class Stranger:
    """A server that is not the exchange, and every header and path that reached it."""

    def __init__(self) -> None:
        self.heard: list[str] = []
        self.address = ""

    async def __call__(self, request: web.BaseRequest) -> web.Response:
        self.heard.append(f"{request.method} {request.raw_path} {dict(request.headers)}")
        return web.Response(status=403)


@asynccontextmanager
async def a_stranger() -> AsyncIterator[Stranger]:
    stranger = Stranger()
    runner = web.ServerRunner(web.Server(stranger))
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    stranger.address = f"http://127.0.0.1:{runner.addresses[0][1]}"
    try:
        yield stranger
    finally:
        await runner.cleanup()


def beside_a_stranger(story: Callable[[Stranger], Awaitable[None]]) -> None:
    async def tell() -> None:
        async with a_stranger() as stranger:
            await story(stranger)

    asyncio.run(tell())


# --- redirects and origins --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
@pytest.mark.parametrize("elsewhere", [True, False])
def test_a_redirect_is_never_followed_and_refuses_the_order(status: int, elsewhere: bool) -> None:
    async def story(stranger: Stranger) -> None:
        async with a_harness() as harness:
            to = f"{stranger.address if elsewhere else harness.fake.rest}/fapi/v1/elsewhere"
            moved = Say(status, "moved", {"Location": to})
            harness.fake.always["POST", "/fapi/v1/order"] = harness.fake.always["GET", "/fapi/v3/account"] = moved
            asked = len(harness.fake.asked)
            reply = await harness.rest.submit(an_intent())
            assert (reply.outcome, reply.code) == (Outcome.REFUSED, REDIRECTED)
            assert reply.text.startswith(f"HTTP {status}: redirected to 127.0.0.1, which is not followed")
            with pytest.raises(ExchangeError, match=r"redirected to 127\.0\.0\.1, which is not followed"):
                await harness.rest.read("fapiPrivateV3GetAccount")
            assert [each.path for each in harness.fake.asked[asked:]] == ["/fapi/v1/order", "/fapi/v3/account"]
        assert stranger.heard == []

    beside_a_stranger(story)


def test_nothing_is_sent_to_another_origin_whoever_asks_for_it() -> None:
    async def story(stranger: Stranger) -> None:
        async with a_harness() as harness:
            harness.exchange.urls["api"]["fapiPrivate"] = f"{stranger.address}/fapi/v1"
            reply = await harness.rest.submit(an_intent())
            assert (reply.outcome, reply.code) == (Outcome.REFUSED, REDIRECTED)
            assert reply.text == f"not sent: {stranger.address} is no address of this exchange"
            socket = stranger.address.replace("http", "ws", 1)
            with pytest.raises(Exception, match="no address of this exchange"):
                await harness.exchange.watch(f"{socket}/private/ws?listenKey=k", "user", None, "user")
        assert stranger.heard == []

    beside_a_stranger(story)


def test_a_websocket_that_is_redirected_is_not_opened() -> None:
    async def story(stranger: Stranger) -> None:
        async def move(request: web.BaseRequest) -> web.Response:
            return web.Response(status=307, headers={"Location": f"{stranger.address}/private/ws?listenKey=k"})

        runner = web.ServerRunner(web.Server(move))
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        moved = f"http://127.0.0.1:{runner.addresses[0][1]}"
        endpoint = Endpoint.simulated(moved, moved.replace("http", "ws", 1))
        exchange = connect(endpoint, Credentials(KEY, "secret"), lambda: 1, 5_000)
        with pytest.raises(Exception, match=r"redirected to 127\.0\.0\.1, which is not followed"):
            await exchange.watch(f"{endpoint.stream}/private/ws?listenKey=k", "user", None, "user")
        await exchange.close()
        await runner.cleanup()
        assert stranger.heard == []

    beside_a_stranger(story)


def test_the_checks_own_websockets_go_to_the_exchange_only_and_follow_no_redirect(tmp_path: Path) -> None:
    """Their address has the listen key."""

    async def story(stranger: Stranger) -> None:
        async with a_harness() as harness:
            moved = Say(307, "", {"Location": f"{stranger.address}/private/ws?listenKey=k"})
            harness.fake.always["GET", "/private/moved"] = moved
            record = FrameRecord(tmp_path / "frames.jsonl")
            for host in (harness.fake.stream, stranger.address.replace("http", "ws", 1)):
                listener = Listener("private", f"{host}/private/moved?listenKey=k", harness.exchange, record)
                await listener.open()
                assert listener.error.startswith("Misdirected: ")
                await listener.close()
            record.close()
        assert stranger.heard == []

    beside_a_stranger(story)


# --- hosts ------------------------------------------------------------------------------------------------------------


def test_hosts_of_a_mode_may_be_changed_to_others_of_the_same_mode() -> None:
    assert endpoint_of(DEMO) == DEMO
    other = endpoint_of(DEMO, "testnet.binancefuture.com", "fstream.binancefuture.com")
    assert (other.rest, other.stream) == ("https://testnet.binancefuture.com", "wss://fstream.binancefuture.com")
    assert endpoint_of(LIVE, "fapi-mm.binance.com").rest == "https://fapi-mm.binance.com"
    assert exchange_of(other) == exchange_of(DEMO) == DEMO.rest, "the same account has one ledger and one lock"
    assert exchange_of(Endpoint.simulated("http://127.0.0.1:8", "ws://127.0.0.1:8")) == "http://127.0.0.1:8"


WRONG_HOSTS = [
    ("demo", "rest_host", "fapi.binance.com"),
    ("demo", "rest_host", "demo-fapi.binance.com.evil.example"),
    ("demo", "rest_host", "evil.example/demo-fapi.binance.com"),
    ("demo", "stream_host", "fstream.binance.com"),
    ("demo", "stream_host", "demo-fstream.binance.com:444"),
    ("live", "rest_host", "demo-fapi.binance.com"),
    ("live", "rest_host", "testnet.binancefuture.com"),
    ("live", "rest_host", "fapi.binance.com@evil.example"),
    ("live", "rest_host", "fapi.binance.co"),
    ("live", "rest_host", "https://fapi.binance.com"),
    ("live", "stream_host", "fstream.binance.com/ws"),
    ("paper", "stream_host", "demo-fstream.binance.com"),
]


@pytest.mark.parametrize(("mode", "name", "host"), WRONG_HOSTS)
def test_a_wrong_host_is_refused_before_anything_is_sent(mode: str, name: str, host: str) -> None:
    config = Config.from_parameters({"mode": mode, name: host})
    keys = {"VOLTRADE_API_KEY": "k", "VOLTRADE_API_SECRET": "s"}
    kind = "demo" if mode == "demo" else "live"
    with pytest.raises(ConfigError, match=f"^{name}: must be a host of Binance's for {kind}, such as .*, was "):
        asyncio.run(reach(config, keys))


def test_a_simulated_venue_has_no_host_to_choose() -> None:
    for more in ({"mode": "sim"}, {"mode": "demo", "venue": "http://127.0.0.1:1"}):
        with pytest.raises(ConfigError, match="rest_host and stream_host are for Binance, not for a simulated venue"):
            Config.from_parameters({"stream_host": "fstream.binance.com", **more})


# --- proxies ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("environment", "found"),
    [
        ({}, ""),
        ({"HTTPS_PROXY": "http://proxy:3128"}, "http://proxy:3128"),
        ({"https_proxy": "http://proxy:3128"}, "http://proxy:3128"),
        ({"ALL_PROXY": "http://all:1"}, "http://all:1"),
        ({"ALL_PROXY": "http://all:1", "HTTPS_PROXY": "http://proxy:3128"}, "http://proxy:3128"),
        ({"HTTPS_PROXY": "http://proxy:3128", "NO_PROXY": ".binance.com"}, ""),
        ({"HTTPS_PROXY": "http://proxy:3128", "NO_PROXY": "example.com"}, "http://proxy:3128"),
        ({"HTTP_PROXY": "http://plain:1"}, ""),  # for addresses without TLS
    ],
)
def test_a_proxy_is_that_of_other_programs(
    environment: dict[str, str], found: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert proxy_of("https://fapi.binance.com") == proxy_of("wss://fstream.binance.com") == found
    assert proxy_of("http://127.0.0.1:8") == ""


@pytest.mark.parametrize(
    "proxy", ["socks5://me:hidden@proxy:1080", "socks5://me:p@hidden@proxy:1080", "https://proxy:443", "proxy:3128"]
)
def test_another_kind_of_proxy_is_refused_by_name_and_without_its_password(
    proxy: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HTTPS_PROXY", proxy)
    with pytest.raises(ConfigError, match=r"^HTTPS_PROXY: must be a proxy such as http://host:port, was ") as refusal:
        connect(DEMO, None, lambda: 1, 5_000)
    assert "hidden" not in str(refusal.value)
    assert str(refusal.value).endswith(without_password(proxy))


def test_requests_and_websockets_go_through_the_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    async def story(stranger: Stranger) -> None:
        monkeypatch.setenv("HTTPS_PROXY", stranger.address.replace("//", "//me:hidden@"))
        exchange = connect(DEMO, Credentials(KEY, "secret"), lambda: 1, 5_000)
        try:
            with pytest.raises(ExchangeError, match="not sent: ClientHttpProxyError") as error:
                await BinanceRestClient(exchange).clock_offset()
            with pytest.raises(Exception, match="403") as closed:
                await exchange.watch("wss://demo-fstream.binance.com/market/ws/0", "market", None, "market")
        finally:
            await exchange.close()
        hosts = [heard.split()[:2] for heard in stranger.heard]
        assert hosts == [["CONNECT", "demo-fapi.binance.com:443"], ["CONNECT", "demo-fstream.binance.com:443"]]
        assert not any(KEY in heard for heard in stranger.heard)
        assert "hidden" not in f"{error.value} {exchange.redact(str(closed.value))}"

    beside_a_stranger(story)


@pytest.mark.parametrize("without", ["fapi.binance.com", "fstream.binance.com", "api.binance.com"])
def test_each_connection_has_the_proxy_for_its_own_host(without: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Requests, websockets, the check's own sockets and the key's rights are on three hosts; NO_PROXY may name one."""
    monkeypatch.setenv("HTTPS_PROXY", "http://proxy:3128")
    monkeypatch.setenv("NO_PROXY", without)

    async def tell() -> None:
        exchange = connect(LIVE, None, lambda: 1, 5_000)
        streams = f"{LIVE.stream}/market/ws/0"
        used = {
            "fapi.binance.com": exchange.check_proxy_settings(f"{LIVE.rest}/fapi/v1/time")[1],
            "api.binance.com": exchange.check_proxy_settings(f"{LIVE.rights}/sapi/v1/account")[1],
            "fstream.binance.com": exchange.client(streams).proxy,
        }
        await exchange.close()
        assert {host for host, proxy in used.items() if proxy is None} == {without}
        assert set(used.values()) == {None, "http://proxy:3128"}
        assert exchange.proxy_to(streams) == used["fstream.binance.com"]

    asyncio.run(tell())


def test_history_is_fetched_through_the_same_proxy(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    async def story(stranger: Stranger) -> None:
        async with Http.opened() as http:
            monkeypatch.setenv("ALL_PROXY", "socks5://me:hidden@proxy:1080")
            for asked in (http.json("https://fapi.binance.com", {}, str), http.download("https://x.example", tmp_path)):
                with pytest.raises(ConfigError, match=r"^ALL_PROXY: must be a proxy .*, was socks5://proxy:1080$"):
                    await asked
            monkeypatch.setenv("ALL_PROXY", stranger.address)
            monkeypatch.setattr(http, "_sleep", lambda seconds: asyncio.sleep(0))
            monkeypatch.setattr(http, "_report", str)
            with pytest.raises(DataError, match="403"):
                await http.json("https://fapi.binance.com/fapi/v1/exchangeInfo", {}, str)
            with pytest.raises(DataError, match="403"):
                await http.download("https://data.binance.vision/data/x.zip", tmp_path / "x.zip")
        hosts = {heard.split()[1] for heard in stranger.heard}
        assert hosts == {"fapi.binance.com:443", "data.binance.vision:443"}

    beside_a_stranger(story)


def test_the_guard_stands_before_the_first_request() -> None:
    async def tell() -> None:
        async with FakeBinance() as fake:
            exchange: UsdmExchange = connect(Endpoint.simulated(fake.rest, fake.stream), None, lambda: 1, 5_000)
            exchange.open()
            assert len(exchange.session.trace_configs) == 1
            exchange.open()
            assert len(exchange.session.trace_configs) == 1
            await exchange.close()

    asyncio.run(tell())
