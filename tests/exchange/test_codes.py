"""Every code of the wire reference: what is known of an order that was refused with it, and what that leads to."""

from __future__ import annotations

import re

import pytest

from voltrade.exchange.responses import classify
from voltrade.model import Outcome
from voltrade.orders.order_states import REACTIONS, REFUSALS, Reaction, refused_text

TABLE = """
UNKNOWN     -1000 -1001 -1006 -1007 -1010
UNKNOWN     -4116 -20132
UNKNOWN     -4117 -5043
LOOKUP      -2011
UNKNOWN     -4083 -2012
RETRY       -1003 -1008 -1015 -1004
RETRY       -1021 -5028
RETRY       -1125 -20124
DROP        -4131 -2020 -5041 -1112
CLOSE       -2021 -4142
RECONCILE   -2022 -2024 -4118
DROP        -4130 -4045 -2025 -20198
FILTERS     -4001..-4014 -4023 -4029 -4030 -1111 -1013 -5029
DROP        -4016 -4024 -4183 -4184 -4210 -4211 -4164
DROP        -2018 -2019 -2027 -2028 -4050 -4051
DROP        -5021 -5022 -2010
HALT        -5024..-5027 -5047
HALT        -1014 -1020 -1023 -1100..-1106 -1108 -1110 -1113..-1120 -1126..-1128 -1130 -1136 -2026 -4000 -4015
HALT        -4017..-4021 -4025..-4027 -4031..-4033 -4044 -4058 -4060 -4082 -4084..-4086 -4135..-4139 -4165
HALT        -5037..-5040 -20121 -20130 -20194..-20196 -20204
HALT        -4046 -4052 -4059 -4171
HALT        -4028 -4047..-4049 -4053..-4055 -4067 -4068 -4161 -4167..-4170 -4172 -4202 -4203 -4205 -4206 -4208
HALT        -4209 -4403 -4531
HALT        -1002 -1005 -1011 -1022 -1099 -1109 -2014 -2015 -2017 -4056 -4057
HALT        -4061 -4062 -4120 -1016 -2013
HALT        -1121 -1122 -2016 -4022 -4104 -4140 -4141 -4144
HALT        -4087 -4105..-4107 -4189 -4400 -4401
HALT        -2023 -4088 -4109 -4192 -4402 -4411
HALT        -4063..-4066 -4069..-4081 -4114 -4115
"""
"""The reference's table in its order: UNKNOWN, LOOKUP where a cancel finds no open order, or refused with a reaction.
Filters and settings halt, since the next
entry would be refused as well; the band of the moment and too small a size don't."""


def rows() -> list[tuple[int, str]]:
    found = []
    for line in TABLE.strip().splitlines():
        known, *codes = line.split()
        for first, last in re.findall(r"-(\d+)(?:\.\.-(\d+))?", " ".join(codes)):
            found += [(-code, known) for code in range(int(first), int(last or first) + 1)]
    return found


ROWS = rows()
HTTP = {-1003: 429, -1015: 429, -1008: 503, -1000: 500, -1001: 500, -1006: 503, -1007: 408, -2014: 401, -2015: 401}
"""The status with which Binance answers; 400 for all others."""


def test_the_reference_names_each_code_once() -> None:
    assert len(ROWS) == len({code for code, _ in ROWS}) > 170


@pytest.mark.parametrize(("code", "known"), ROWS)
def test_each_code_has_its_outcome_and_its_reaction(code: int, known: str) -> None:
    outcome = classify(HTTP.get(code, 400), code, "a text", "DELETE" if known == "LOOKUP" else "POST")
    if known == "LOOKUP":  # nothing was cancelled; the order may be filled: `test_oms.py` has the look-up that follows
        assert outcome is Outcome.REFUSED
        assert classify(400, code, "a text", "GET") is Outcome.UNKNOWN
        assert code not in REACTIONS
    elif known == "UNKNOWN":
        assert outcome is Outcome.UNKNOWN
        assert REACTIONS.get(code, Reaction.LOOKUP) is Reaction.LOOKUP
    else:
        assert (outcome, REACTIONS[code]) == (Outcome.REFUSED, Reaction(known))
        assert "doesn't know" not in refused_text("vt-e-1e1", code, "a text")


def test_a_code_of_a_setting_that_stands_already_is_no_failure() -> None:
    from voltrade.exchange.rest import NOT_MODIFIED

    assert set(NOT_MODIFIED) == {-4046, -4052, -4059, -4171}


def test_a_code_that_nobody_listed_is_a_refusal_told_at_once_with_its_text() -> None:
    for code in (-9999, -4999, -5050, -20999, -1):
        assert classify(400, code, "Something new.", "POST") is Outcome.REFUSED
        assert code not in REACTIONS  # which halts
    assert refused_text("vt-e-1e1", -9999, "Something new.") == (
        "vt-e-1e1 refused with -9999: Something new. (a code that voltrade doesn't know: no entries until you resume)"
    )


def test_a_code_stands_in_one_row() -> None:
    codes = [code for _, _, codes in REFUSALS for code in codes]
    assert sorted({code for code in codes if codes.count(code) > 1}) == []


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_a_redirect_is_a_refusal_that_halts(status: int) -> None:
    assert classify(status, 1, "redirected to another.example, which is not followed", "POST") is Outcome.REFUSED
    assert REACTIONS[1] is Reaction.HALT
    assert classify(status, 1, "", "GET") is Outcome.UNKNOWN  # a question that failed proves nothing
    assert classify(status, 0, "", "POST") is Outcome.UNKNOWN  # not seen by us as a redirect


@pytest.mark.parametrize("code", [-2013, -20124])
def test_both_kinds_of_orders_have_their_answer_for_absence(code: int) -> None:
    assert classify(400, code, "Order does not exist.", "GET") is Outcome.REFUSED
