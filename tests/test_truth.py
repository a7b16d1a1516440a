"""The ground-truth log: an exchange made from it again is the same exchange, wherever the log was cut."""

from __future__ import annotations

import json
from typing import Any

from exchanges import World, a_world, go_on, history, state_of
from hypothesis import given, settings
from hypothesis import strategies as st

from voltrade.exchange.truth import restored

worlds = st.integers(0, 2**32 - 1).map(a_world)


@settings(max_examples=60, deadline=None)
@given(worlds, st.floats(0, 1, exclude_max=True))
def test_an_exchange_cut_off_anywhere_comes_back_and_goes_on(world: World, where: float) -> None:
    whole = history(world)
    lines = [json.dumps(row) for row in whole.log]
    kept = [json.loads(line) for line in lines[: 1 + int(where * len(lines))]]
    more: list[dict[str, Any]] = []
    exchange = restored(kept, more.append)
    assert kept + more == whole.log[: len(kept) + len(more)], "first what had followed and was not written"
    go_on(exchange, world, kept)
    assert kept + more == whole.log
    assert state_of(exchange) == state_of(whole.exchange)
