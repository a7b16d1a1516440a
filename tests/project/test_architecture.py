"""docs/architecture.md: its pictures are those of the code, and every file on top and every folder has its row."""

from __future__ import annotations

import re
from itertools import pairwise

import pytest
from support import architecture


def test_the_pictures_are_those_of_the_code() -> None:
    page = architecture.PAGE.read_text()
    assert architecture.with_pictures(page) == page, "PYTHONPATH=tests python -m support.architecture draws them anew"


def test_the_picture_shows_the_way_of_a_trade_to_an_order() -> None:
    arrows = architecture.flow()
    way = ["exchange.streams", "live", "core", "bar_pipeline", "bars"]
    assert all(pair in arrows for pair in pairwise(way))
    for pair in (
        ("bar_pipeline", "signal_engine"),
        ("orders.core_rules", "risk"),
        ("orders.core_rules", "orders.order_rules"),
    ):
        assert arrows[pair], pair
    assert "submit" in arrows["live", "exchange.rest"]
    assert "on_order" in arrows["core", "oms"]
    assert "commit" in arrows["live", "journal"]


@pytest.mark.parametrize("part", ["files", "folders"])
def test_each_room_has_its_row(part: str) -> None:
    page = architecture.PAGE.read_text()
    named = set(re.findall(r"`([a-z_]+(?:/[a-z_]+)?)/?`", page))
    on_top = {path.stem for path in architecture.PACKAGE.glob("[a-z]*.py")}
    for folder in architecture.ON_THE_PATH:
        on_top |= {f"{folder}/{path.stem}" for path in architecture.PACKAGE.glob(f"{folder}/[a-z]*.py")}
    folders = {path.name for path in architecture.PACKAGE.iterdir() if path.is_dir() and path.name[0].isalpha()}
    assert (on_top if part == "files" else folders) <= named
