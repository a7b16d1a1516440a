"""The venue's tables: each code is given to its request, each path is what clients call, and the docs say the same."""

from __future__ import annotations

import ast
import importlib
import inspect
import re
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlencode

import pytest
from support.venue_client import Client, run, trade

from voltrade.model import Trades
from voltrade.simulated.refusals import Code, codes
from voltrade.simulated.symbols import table
from voltrade.venue.command import main
from voltrade.venue.faults import Fault
from voltrade.venue.requests import served
from voltrade.venue.rest import HANDLERS, RestApi

ROOT = Path(__file__).resolve().parents[2]

# --- codes ------------------------------------------------------------------------------------------------------------

SECTION_5 = {
    *(-1000, -1001, -1006, -1007, -1010, -4116, -20132, -2011, -4117, -5043, -4083, -2012, -1003, -1008, -1015, -1004),
    *(-1021, -5028, -1125, -20124, -4131, -2020, -5041, -1112, -2021, -4142, -2022, -2024, -4118, -4130, -4045, -2025),
    *(-20198, *range(-4014, -4000), -4023, -4029, -4030, -1111, -4016, -4024, -4183, -4184, -4210, -4211, -4164),
    *(-1013, -5029, -2018, -2019, -2027, -2028, -4050, -4051, -5021, -5022, -2010, -5024, -5025, -5026, -5027, -5047),
    *(-1014, -1020, -1023, *range(-1106, -1099), -1108, -1110, *range(-1120, -1112), -1126, -1127, -1128, -1130, -1136),
    *(-2026, -4000, -4015, *range(-4021, -4016), -4025, -4026, -4027, -4031, -4032, -4033, -4044, -4058, -4060, -4082),
    *(-4084, -4085, -4086, *range(-4139, -4134), -4165, *range(-5040, -5036), -20121, -20130, -20194, -20195, -20196),
    *(-20204, -4046, -4052, -4059, -4171, -4028, -4047, -4048, -4049, -4053, -4054, -4055, -4067, -4068, -4161, -4167),
    *(-4168, -4169, -4170, -4172, -4202, -4203, -4205, -4206, -4208, -4209, -4403, -4531, -1002, -1005, -1011, -1022),
    *(-1099, -1109, -2014, -2015, -2017, -4056, -4057, -4061, -4062, -4120, -1016, -2013, -1121, -1122, -2016, -4022),
    *(-4104, -4140, -4141, -4144, -4087, -4105, -4106, -4107, -4189, -4400, -4401, -2023, -4088, -4109, -4192, -4402),
    *(-4411, -4188, -4509, -4129, -4178),
}
"""The codes that a request for an order, a cancel or a setting may be answered with, by what is known of the wire."""

JUMP = [trade(n, 800_000 if n < 30 else 900_000, sold=n % 2 == 1) for n in range(60)]
"""From trade 130 on the last price is 12.5% above the mark."""

SHORT = {
    "order": "POST /fapi/v1/order symbol=BTCUSDT&side=BUY&type=MARKET&quantity=0.010&newOrderRespType=ACK",
    "limit": "POST /fapi/v1/order symbol=BTCUSDT&side=BUY&type=LIMIT&quantity=0.010&price=79000&timeInForce=GTC",
    "algo": "POST /fapi/v1/algoOrder algoType=CONDITIONAL&symbol=BTCUSDT&side=SELL&type=STOP_MARKET&quantity=0.010"
    "&triggerPrice=79000",
}
"""Requests that are good as they are; a step changes some of their parameters."""


async def take(client: Client, step: str) -> Any:
    """Take a step of the table: `play ID`, `fault {...}`, or a request, which `121x` before it repeats."""
    word, _, rest = step.partition(" ")
    if word == "play":
        return await client.play_to(int(rest))
    if word == "fault":
        return client.venue.faults.add(Fault.model_validate_json(rest))
    if re.fullmatch(r"\d+x", word):
        answers = [await take(client, rest) for _ in range(int(word[:-1]))]
        assert not any(answer[1].get("code") == answers[-1][1]["code"] for answer in answers[:-1] if answer[0] != 200)
        return answers[-1]
    if word in SHORT:
        method, path, query = SHORT[word].split(" ")
        given = {**dict(parse_qsl(query)), **dict(parse_qsl(rest, keep_blank_values=True))}
    else:
        method, path, query = (*f"{step} ".split(" "), "")[:3]
        given = dict(parse_qsl(query, keep_blank_values=True))
    key, secret, now = given.pop("key", "sim-key"), given.pop("secret", "sim-secret"), client.venue.now()
    given["timestamp"] = str(now + int(given.get("timestamp", 0)))
    text = urlencode({name: value for name, value in given.items() if value})
    status, body, _ = await client.raw(method, path, f"{text}&signature={client.sign(text, secret)}", key=key)
    return status, body if isinstance(body, dict) else {}


ASKED_FOR = [code for code in codes().values() if code.steps]


@pytest.mark.parametrize("code", ASKED_FOR, ids=lambda code: str(code.code))
def test_each_code_is_given_to_the_request_that_the_table_names(code: Code, tmp_path: Path) -> None:
    async def story(client: Client) -> None:
        if code.code != -2020:  # before the first trade
            await client.play_to(110)
        for step in code.steps[:-1]:
            answer = await take(client, step)
            assert not isinstance(answer, tuple) or answer[0] == 200, (step, answer)
        status, body = await take(client, code.steps[-1])
        assert (status, body["code"]) == (code.status, code.code), body
        if code.text and "{" not in code.text:
            assert body["msg"] == code.text

    run(story, tmp_path, Trades.from_rows("BTCUSDT", JUMP), latency_ms=1, mark_interval_s=25)


def test_a_code_without_a_request_says_who_gives_it() -> None:
    """Each can be given by a fault: tests/venue/test_faults.py."""
    causes = {code.cause for code in codes().values() if not code.steps}
    assert [cause for cause in causes if not cause.startswith(("never", "only a script", "only by a fault"))] == []


def test_the_table_has_every_code_that_an_order_may_be_answered_with() -> None:
    assert SECTION_5 - codes().keys() == set()


def test_every_code_that_the_venue_gives_is_in_the_table() -> None:
    """All numbers that look like a code, in the rooms that refuse."""
    rooms = ("simulated/refusals", "simulated/exchange", "venue/requests", "venue/rest", "simulated/matching")
    source = "".join((ROOT / f"voltrade/{room}.py").read_text() for room in rooms)
    given = {int(number) for number in re.findall(r"(?<![\w.])-[1245]\d{3}(?!\d)", source)}
    assert given - codes().keys() == set()


# --- paths ------------------------------------------------------------------------------------------------------------

Paths = set[tuple[str, str]]


def paths_of_ccxt() -> Paths:
    """The paths below /fapi and /futures/data that ccxt's own methods call, those of its streams too."""
    rooms = [importlib.import_module(f"ccxt.{room}.binance") for room in ("async_support", "pro")]
    api = rooms[0].binance().describe()["api"]
    called = set(re.findall(r"(?:self\.|')(fapi\w+)", "".join(map(inspect.getsource, rooms))))
    kinds = [(kind, version) for kind in ("Public", "Private") for version in ("", "V2", "V3")]
    bases = {f"fapi{kind}{version}": f"/fapi/{version.lower() or 'v1'}/" for kind, version in kinds}
    bases["fapiData"] = "/futures/data/"
    return {
        (method.upper(), base + path)
        for name, base in bases.items()
        for method, paths in api[name].items()
        for path in paths
        if "".join([name, method.capitalize(), *(part[:1].upper() + part[1:] for part in re.split("[/_]", path))])
        in called
    }


def paths_of_the_sdk() -> Paths:
    """The paths that the official SDK's methods call."""
    rest = "binance_sdk_derivatives_trading_usds_futures.rest_api.api"
    found: Paths = set()
    for room in ("account", "market_data", "trade", "user_data_streams", "convert", "portfolio_margin_endpoints"):
        source = inspect.getsource(importlib.import_module(f"{rest}.{room}_api"))
        found |= set(re.findall(r'method="(\w+)",\s+path="(/[^"]+)"', source))
    return found


def paths_of_python_binance() -> Paths:
    """The paths that python-binance's futures methods call."""
    bases = {"_request_futures_api": "/fapi/v{}/", "_request_futures_data_api": "/futures/data/"}
    found: Paths = set()
    for node in ast.walk(ast.parse(inspect.getsource(importlib.import_module("binance.async_client")))):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in bases:
            method, path, *rest = node.args
            if isinstance(method, ast.Constant) and isinstance(path, ast.Constant):
                words = {word.arg: word.value for word in node.keywords}
                version = rest[1] if len(rest) > 1 else words.get("version", ast.Constant(1))
                base = bases[node.func.attr].format(ast.literal_eval(version))
                found.add((str(method.value).upper(), base + str(path.value)))
    return found


def test_the_table_has_every_path_that_the_clients_call() -> None:
    known = {(row[0], row[1]): row[2] for kind in ("served", "refused") for row in table("venue/tables.json")[kind]}
    clients = {"c": paths_of_ccxt(), "s": paths_of_the_sdk(), "p": paths_of_python_binance()}
    assert min(map(len, clients.values())) > 50
    called = {key: "".join(who for who in "csp" if key in clients[who]) for key in set().union(*clients.values())}
    assert known == called


def test_every_answer_is_there_and_none_is_left_over() -> None:
    named = {route.handler for route in served().values() if route.handler}
    assert HANDLERS.keys() - named == set()
    assert [name for name in named - HANDLERS.keys() if not hasattr(RestApi, name)] == []


# --- what people read -------------------------------------------------------------------------------------------------


def test_the_command_prints_the_tables_of_the_docs(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--tables"]) == 0
    printed = capsys.readouterr().out
    docs = (ROOT / "docs/venue.md").read_text()
    for part in printed.strip().split("\n\n"):
        assert part in docs, "python -m voltrade venue --tables"


def test_the_venue_is_small_enough_to_read() -> None:
    """All lines count: blank ones, docstrings and comments too."""
    files = (ROOT / "voltrade/venue").glob("*.py")
    lines = sum(len(file.read_text().splitlines()) for file in files)
    assert 1_000 < lines < 3_000
