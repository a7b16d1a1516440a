"""No secret is shown or kept, in whatever spelling an answer shows it."""

from __future__ import annotations

import base64
import html
import json
from types import SimpleNamespace
from typing import Any
from urllib.parse import quote

import pytest

from voltrade.engine.demo_check.context import CheckContext
from voltrade.engine.demo_check.report import Report
from voltrade.exchange.binance import DEMO, connect
from voltrade.exchange.client import UsdmExchange
from voltrade.exchange.credentials import Credentials

KEY, SECRET = "canary-key-of-a-test-0", "canary+secret/of&a<test>=="
PASSWORD = "p~ss!wörd"


@pytest.fixture
def exchange(monkeypatch: pytest.MonkeyPatch) -> UsdmExchange:
    monkeypatch.setenv("HTTPS_PROXY", "http://user:p%7Ess%21w%C3%B6rd@127.0.0.1:9")
    return connect(DEMO, Credentials(KEY, SECRET), lambda: 1, 5_000)


@pytest.mark.parametrize(
    ("shown", "hidden"),
    [
        (f"key {KEY}", KEY),
        (json.dumps({"said": json.dumps({"X": SECRET})}), SECRET),
        (html.escape(SECRET), html.escape(SECRET)),
        (quote(SECRET, safe=""), quote(SECRET, safe="")),
        (quote(SECRET, safe="").lower(), quote(SECRET, safe="").lower()),
        (quote(quote(SECRET, safe=""), safe=""), "canary%252Bsecret"),
        (base64.b64encode(KEY.encode()).decode().rstrip("="), base64.b64encode(KEY.encode()).decode().rstrip("=")),
        ('{"listenKey": ["abcdefghijkl"]}', "abcdefghijkl"),
        (f"http://user:{PASSWORD}@host", PASSWORD),
        ("http://user:p%7Ess%21w%C3%B6rd@host", "p%7Ess"),
        ("http://user:p~ss!w%C3%B6rd@host", "p~ss"),
        ("Proxy-Authorization: Basic " + base64.b64encode(f"user:{PASSWORD}".encode()).decode(), "dXNlc"),
        ("seen " + base64.b64encode(f"user:{PASSWORD}".encode("latin-1")).decode(), "dXNlc"),
        (r"{\"listenKey\":\"abcdefghijkl\"}", "abcdefghijkl"),
        (r'"{\\\"listenKey\\\": \\\"abcdefghijkl\\\"}"', "abcdefghijkl"),
        ("b'signature': 'abc'", "abc"),
        ("signature%3Dabcdef0123", "abcdef"),
        ("signature=ab+cd/ef==&x=1", "ef"),
        ("X-MBX-APIKEY%3A+ZZZZ", "ZZZZ"),
        ("x-mbx-apikey: ZZZZ", "ZZZZ"),
        ("&quot;apiKey&quot;:&quot;ZZZZ&quot;", "ZZZZ"),
        ("Authorization: Bearer abc.def", "abc"),
    ],
)
def test_a_secret_is_hidden_in_every_spelling(exchange: UsdmExchange, shown: str, hidden: str) -> None:
    assert hidden in shown
    assert hidden not in exchange.redact(shown)
    assert "***" in exchange.redact(shown)


@pytest.mark.parametrize("end", ["", ":"])
def test_a_token_of_a_proxy_is_hidden_though_it_has_no_password(end: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTPS_PROXY", f"http://tok%7Een-of-a-proxy{end}@127.0.0.1:9")
    exchange = connect(DEMO, None, lambda: 1, 5_000)
    header = base64.b64encode(b"tok~en-of-a-proxy:").decode()
    for token in ("tok%7Een-of-a-proxy", "tok~en-of-a-proxy", header):
        assert exchange.redact(f"407 by {token}.") == "407 by ***."
    monkeypatch.setenv("HTTPS_PROXY", "http://me@127.0.0.1:9")  # no secret, and part of other words
    assert connect(DEMO, None, lambda: 1, 5_000).redact("the name of me") == "the name of me"


def test_other_words_stay(exchange: UsdmExchange) -> None:
    text = "-1022: Signature for this request is not valid. symbol=BTCUSDT&x=1"
    assert exchange.redact(text) == text


def test_an_answer_that_shows_its_request_has_no_secret(exchange: UsdmExchange) -> None:
    page = f"<html>403 blocked\nHost: a\nX-MBX-APIKEY: {KEY}\nurl: /listenKey?signature=0a1b"
    with pytest.raises(Exception, match="403") as refused:
        exchange.handle_errors(403, "Forbidden", "https://a/b", "GET", {}, page, None, None, None)
    response = vars(refused.value)["response"]
    assert response.status == 403
    assert KEY not in response.text
    assert response.text.endswith("X-MBX-APIKEY: ***\nurl: /listenKey?signature=***")


def test_rows_and_answers_of_a_check_have_no_secret(exchange: UsdmExchange) -> None:
    report = Report("https://a", "BTCUSDT", "v")
    rows: list[Any] = []
    context: Any = SimpleNamespace(wiring=SimpleNamespace(exchange=exchange), report=report, on_row=rows.append)
    CheckContext.row(context, "money", "position", f"none of {KEY}", f"403 {KEY}", ok=False)
    CheckContext.answer(context, "key in no header", f"403 {KEY}")
    kept = exchange.redacted(report.plain())
    assert KEY not in json.dumps(kept)
    assert KEY not in report.verdicts()
    assert kept["rows"][0]["verdict"] == "failed"
    assert rows[0].found == "403 ***"
