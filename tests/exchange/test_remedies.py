"""What a failed request means is said in a sentence, with what to do, wherever it fails."""

from __future__ import annotations

import re

import pytest

from voltrade.engine.checks import failed_row, told
from voltrade.errors import ExchangeError
from voltrade.exchange.binance import DEMO, LIVE, BinanceRestClient, Endpoint, connect
from voltrade.exchange.client import Response
from voltrade.exchange.credentials import Credentials
from voltrade.exchange.remedies import KEY_CODES, without_tags
from voltrade.exchange.responses import NO_ANSWER, NOT_SENT

UNTIL = 1_796_036_986_824


def a_client(endpoint: Endpoint = LIVE) -> BinanceRestClient:
    exchange = connect(endpoint, Credentials("a-key", "a-secret"), lambda: 1, 5_000)
    exchange.blocked_until = UNTIL
    return BinanceRestClient(exchange)


@pytest.mark.parametrize(
    ("response", "item", "said"),
    [
        (Response(401, -2015, "Invalid API-key, IP, or permissions"), "key", "API Management .*demo only"),
        (Response(400, -1022, "Signature"), "key", "the secret does not belong.*both copied whole"),
        (Response(400, -1021, "Timestamp"), "clock", "set the machine's clock by NTP"),
        (Response(400, -1021, "outside of the recvWindow."), "clock", "or use a faster connection"),
        (Response(400, -2019, "Margin is insufficient"), "wallet", "margin .*deposit"),
        (Response(400, -4192, "Cooling-off"), "account", "cooling-off.*until when"),
        (Response(400, -4087, "Reduce only"), "account", "may only reduce"),
        (Response(400, -4061, "Position side"), "account", "hedge mode.*follows from the row position mode"),
        (Response(400, -1122, "Symbol status"), "contract", "follows from the row contract"),
        (Response(400, -4140, "Symbol status"), "contract", "follows from the row contract"),
        (Response(503, -1008, "overload"), "exchange", "overloaded.*wait"),
        (Response(418, -1003, "banned"), "exchange", "banned.*until 2026-11-30 11:09:47 UTC"),
        (Response(429, -1003, "too many"), "exchange", "asked again later: wait until 2026-11-30 11:09:47 UTC"),
        (Response(451, 0, "<html>Unavailable"), "exchange", "does not serve this location.*proxy"),
        (Response(403, 0, "<html>"), "exchange", "firewall"),
        (Response(503, 0, "Service Unavailable."), "exchange", "maintenance"),
        (Response(NOT_SENT, 0, "ClientConnectorDNSError"), "exchange", "fapi.binance.com is not known.*HTTPS_PROXY"),
        (Response(NOT_SENT, 0, "ClientHttpProxyError"), "exchange", "the proxy http://10.0.0.1:9 does not let"),
        (Response(NO_ANSWER, 0, "TimeoutError"), "exchange", "no answer from fapi.binance.com"),
        (Response(400, -9999, "new"), "exchange", "new, code -9999, must be accepted by the exchange"),
    ],
)
def test_each_failure_says_what_happened_and_what_to_do(
    response: Response, item: str, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HTTPS_PROXY", "http://me:hidden@10.0.0.1:9")
    error = a_client().failure("fapiPrivateV3GetBalance", response)
    row = failed_row(error)
    assert (row.item, row.ok) == (item, False)
    told_text = row.told
    assert re.search(said, told_text), told_text
    assert "fapiPrivateV3GetBalance" in row.found
    assert "{" not in told_text
    assert "hidden" not in told_text
    assert told(error) == f"{item}: {row.found}, must be {row.wanted}"


def test_a_key_names_the_page_of_its_own_exchange() -> None:
    pages = [a_client(endpoint).remedy(Response(401, -2015)).wanted for endpoint in (DEMO, LIVE)]
    assert "demo.binance.com, API Management (demo-fapi.binance.com)" in pages[0]
    assert "Binance, API Management (fapi.binance.com)" in pages[1]
    venue = Endpoint.simulated("http://127.0.0.1:9", "ws://127.0.0.1:9")
    assert "one of the simulated venue (its --api-key" in a_client(venue).remedy(Response(401, -2015)).wanted
    assert all(a_client().remedy(Response(400, code)).item == "key" for code in KEY_CODES)


def test_a_limit_whose_end_is_unknown_says_so() -> None:
    client = connect(LIVE, Credentials("a-key", "a-secret"), lambda: 1, 5_000)
    wanted = [BinanceRestClient(client).remedy(Response(*status)).wanted for status in ((418, -1003), (429, -1003))]
    assert wanted == [
        f"{what}: wait until some minutes have passed" for what in ("no longer banned", "asked again later")
    ]


def test_an_error_of_its_own_words_stays() -> None:
    assert told(ExchangeError("listenKey: must be letters and digits")) == "listenKey: must be letters and digits"
    assert told(ValueError("x")) == "x"


def test_a_page_is_told_in_its_words() -> None:
    assert without_tags("<html><b>451</b>\nUnavailable</html>") == "451 Unavailable"
    assert without_tags("price < 5 and > 3") == "price < 5 and > 3"
