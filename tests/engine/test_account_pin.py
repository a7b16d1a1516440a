"""Which account and host a mode has met first: one file a mode, for the modes that trade at Binance."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from voltrade.config import Config
from voltrade.engine.account_pin import keep_pin, pin_checks


def a_wiring(mode: str, account: str, endpoint: str = "") -> Any:
    """Where a session of a mode is connected: by default at the mode's endpoint at Binance."""
    rest = f"https://{mode}.example"
    return SimpleNamespace(
        config=Config.from_parameters(mode=mode, threshold=100),
        account=account,
        endpoint=SimpleNamespace(name=endpoint or mode, rest=rest),
    )


def test_demo_and_live_have_each_a_pin_of_their_own(tmp_path: Path) -> None:
    environment = {"VOLTRADE_STATE": str(tmp_path)}
    demo, live = a_wiring("demo", "D"), a_wiring("live", "L")
    for wiring in (demo, live):
        keep_pin(wiring, environment)
    kept = {path.name: json.loads(path.read_text())["account"] for path in tmp_path.rglob("*.json")}
    assert kept == {"demo.json": "D", "live.json": "L"}
    for wiring in (demo, live):
        assert [row.ok for row in pin_checks(wiring, environment)] == [True]
    for other in (a_wiring("demo", "L"), a_wiring("live", "D")):
        assert [row.ok for row in pin_checks(other, environment)] == [False]


def test_a_simulated_exchange_is_pinned_in_no_mode(tmp_path: Path) -> None:
    environment = {"VOLTRADE_STATE": str(tmp_path)}
    for wiring in (a_wiring("sim", "S"), a_wiring("paper", "P"), a_wiring("live", "V", "venue")):
        keep_pin(wiring, environment)
        assert pin_checks(wiring, environment) == []
    assert list(tmp_path.iterdir()) == []
