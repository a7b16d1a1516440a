"""What is known of a request: a row for every code and text that the wire reference names."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from voltrade.exchange.client import response_of
from voltrade.exchange.responses import ABSENT, EXISTS, IN_MOTION, LOST, NO_ANSWER, NOT_SENT, Verb, classify
from voltrade.model import Outcome

UNKNOWN_TEXT = "Unknown error, please check your request or try again later."

PLACING = [
    # HTTP, code, text, what is known of the order
    (200, 0, "", "ACCEPTED"),
    (NO_ANSWER, 0, "a 200 without an order", "UNKNOWN"),
    (NO_ANSWER, 0, "TimeoutError", "UNKNOWN"),
    (NOT_SENT, 0, "ClientConnectorError", "REFUSED"),
    (200, -2010, "a code with a 200 was never seen", "UNKNOWN"),
    (202, 0, "", "UNKNOWN"),
    (302, 0, "", "UNKNOWN"),
    (400, 0, "<html>", "UNKNOWN"),
    (403, 0, "<html>Request blocked", "UNKNOWN"),
    (404, 0, "<html>", "UNKNOWN"),
    (408, 0, "", "UNKNOWN"),
    (408, -1007, "Timeout waiting for response", "UNKNOWN"),
    (418, 0, "", "REFUSED"),
    (418, -1003, "IP banned until 1795418299944", "REFUSED"),
    (429, -1003, "Too many requests", "REFUSED"),
    (400, -1003, "Too many requests", "REFUSED"),
    (429, -1015, "Too many new orders", "REFUSED"),
    (400, -1015, "Too many new orders", "REFUSED"),
    (500, 0, "", "UNKNOWN"),
    (502, 0, "<html>", "UNKNOWN"),
    (504, 0, "", "UNKNOWN"),
    (500, -2010, "", "UNKNOWN"),
    (503, 0, UNKNOWN_TEXT, "UNKNOWN"),
    (503, -1000, UNKNOWN_TEXT, "UNKNOWN"),
    (503, 0, "Service Unavailable.", "REFUSED"),
    (503, 0, "Internal error; unable to process your request. Please try again.", "REFUSED"),
    (503, -1008, "Request throttled by system-level protection. Reduce-only orders are exempt.", "REFUSED"),
    (503, 0, "Request throttled by system-level protection.", "REFUSED"),
    (503, 0, "<html>Service Unavailable.</html>", "UNKNOWN"),
    (503, -1001, "Internal error; unable to process your request. Please try again.", "UNKNOWN"),
    (400, -1000, "An unknown error occurred", "UNKNOWN"),
    (400, -1001, "Internal error", "UNKNOWN"),
    (400, -1006, "An unexpected response was received", "UNKNOWN"),
    (400, -1007, "Timeout waiting for response", "UNKNOWN"),
    (400, -4116, "ClientOrderId is duplicated", "UNKNOWN"),
    (400, -9999, "never heard of", "REFUSED"),
    (400, -4411, "Please sign TradFi-Perps agreement contract", "REFUSED"),
    (400, -4045, "Reach max stop order limit.", "REFUSED"),
    *[
        (400, code, "", "REFUSED")
        for code in (
            *(-1021, -5028, -1022, -2014, -1102, -1111, -1121, -2010, -2018, -2019, -2020, -2021, -2022, -2025, -2027),
            *(-4003, -4005, -4014, -4015, -4016, -4024, -4061, -4118, -4120, -4131, -4164, -5021, -5022, -4192, -4400),
        )
    ],
    (401, -2015, "Invalid API-key, IP, or permissions for action", "REFUSED"),
]


@pytest.mark.parametrize(("status", "code", "text", "known"), PLACING)
def test_what_is_known_of_an_order_that_was_sent(status: int, code: int, text: str, known: str) -> None:
    assert classify(status, code, text, "POST") == known


@pytest.mark.parametrize(
    ("status", "code", "known"),
    [
        (200, 0, "ACCEPTED"),
        (200, 200, "ACCEPTED"),
        (400, -2011, "REFUSED"),
        (400, -1007, "UNKNOWN"),
        (503, -1008, "REFUSED"),
        # The HTTP library repeats a DELETE by itself, so "no connection" may be the second attempt's.
        (NOT_SENT, 0, "UNKNOWN"),
        (NO_ANSWER, 0, "UNKNOWN"),
    ],
)
def test_what_is_known_of_a_cancel(status: int, code: int, known: str) -> None:
    assert classify(status, code, "", "DELETE") == known


@pytest.mark.parametrize("status", [NOT_SENT, NO_ANSWER, 400, 418, 429, 500, 503])
@pytest.mark.parametrize("code", [0, -1003, -1008, -1021, -2015, -2011])
def test_a_question_that_failed_is_evidence_of_nothing(status: int, code: int) -> None:
    assert classify(status, code, "Service Unavailable.", "GET") is Outcome.UNKNOWN


def test_only_one_answer_says_that_there_is_no_such_order() -> None:
    assert {code for code in range(-30_000, 0) if classify(400, code, "", "GET") is Outcome.REFUSED} == ABSENT
    assert classify(400, -2013, "Order does not exist.", "GET") is Outcome.REFUSED
    assert classify(503, -2013, "Order does not exist.", "GET") is Outcome.UNKNOWN


@pytest.mark.parametrize("status", [200, 400, 404, 408, 409, 499, 500, 502, 503, 504])
@pytest.mark.parametrize("code", [1, "1", 7, 408, 10_001])
@pytest.mark.parametrize("verb", ["POST", "DELETE"])
def test_a_code_that_is_not_binances_is_no_refusal(status: int, code: Any, verb: Verb) -> None:
    body = {"code": code, "msg": "upstream timed out"}
    response = response_of(status, body, json.dumps(body))
    assert classify(response.status, response.code, response.text, verb) is Outcome.UNKNOWN


def test_a_200_with_the_code_200_is_done() -> None:
    response = response_of(200, {"code": 200, "msg": "The operation of cancel all open order is done."}, "")
    assert classify(response.status, response.code, response.text, "DELETE") is Outcome.ACCEPTED


verbs: st.SearchStrategy[Verb] = st.sampled_from(["GET", "POST", "PUT", "DELETE"])


@given(st.integers(-1, 599), st.integers(-9999, 999), st.text(max_size=40), verbs)
def test_nothing_but_a_plain_200_is_accepted(status: int, code: int, text: str, verb: Verb) -> None:
    accepted = classify(status, code, text, verb) is Outcome.ACCEPTED
    assert accepted == (status == 200 and code in (0, 200))


@given(st.sampled_from([400, 401, 403]), st.integers(-9999, -1), st.sampled_from(["POST", "DELETE"]))
def test_a_code_is_a_refusal_unless_it_says_that_nobody_knows(status: int, code: int, verb: Verb) -> None:
    is_unknown = classify(status, code, "", verb) is Outcome.UNKNOWN
    assert is_unknown == (code in LOST | EXISTS | IN_MOTION)


@given(st.sampled_from([0, 404, 405, 408, 409, 413, 422, 451, 499, 500, 502, 504]), st.integers(-9999, -1), verbs)
def test_a_code_of_a_gateway_is_no_refusal(status: int, code: int, verb: Verb) -> None:
    assert classify(status, code, "", verb) is Outcome.UNKNOWN
