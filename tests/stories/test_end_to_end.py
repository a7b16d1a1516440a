"""The main job as a person does it: papermill runs the live notebook, and everything it left holds together."""

from __future__ import annotations

import gzip
import json
from decimal import Decimal
from itertools import islice
from pathlib import Path
from typing import Any

import papermill
import pytest
from support.sessions import (
    ROOT,
    Truth,
    bars_of,
    check_bars_of,
    check_run,
    facts_of,
    holders_of,
    run_engine,
    run_notebook,
)

from voltrade.__main__ import main
from voltrade.data.tape import load_trades
from voltrade.model import Alert, FeedGap
from voltrade.notebook.papermill_engine import Refused
from voltrade.simulated.symbols import shipped_instrument

CANARY = "c4n4ry70k3n0f73l3gr4m"


def test_a_session_trades_a_tape_end_to_end(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VOLTRADE_NOTIFY", f"json://127.0.0.1:9/{CANARY}")  # where nobody is
    said = run_notebook(tmp_path / "demo.ipynb", seed=11, hours=6)
    codes = check_run(tmp_path / "demo")
    trips = Truth.of(tmp_path / "demo").round_trips
    assert len(trips) >= 10
    assert {trip["side"] for trip in trips} == {"BUY", "SELL"}
    assert {"STOP_MARKET", "TAKE_PROFIT_MARKET"} <= {trip["closed_by"] for trip in trips}
    assert len(bars_of(tmp_path / "demo")) >= 300
    assert len(codes) >= 2

    assert holders_of(CANARY, tmp_path) == []
    assert CANARY not in said

    notebook = json.loads((tmp_path / "demo.ipynb").read_text())
    head = json.loads((tmp_path / "demo/run.json").read_text())["head"]
    assert head in json.dumps(notebook["cells"])
    assert notebook["metadata"]["voltrade"]["run"]["head"] == head
    assert main(["verify", str(tmp_path / "demo")]) == 0
    told = capsys.readouterr().out
    assert "demo.ipynb names the head" in told
    assert told.splitlines()[-1].startswith("Whole: ")
    assert (tmp_path / "demo/frames/round_trips.parquet").exists()


@pytest.mark.parametrize(
    ("parameter", "value", "rule"),
    [
        ("treshold", 20, "unknown"),
        ("api_key", CANARY, "never from a parameter"),
        ("mode", "live", "VOLTRADE_API_KEY"),
        ("threshold", 0, "must be given in mode live, was none; BTCUSDT's own would be 730"),
    ],
)
def test_a_wrong_parameter_stops_the_run_and_is_named(
    tmp_path: Path, parameter: str, value: Any, rule: str, monkeypatch: pytest.MonkeyPatch, capfd: Any
) -> None:
    monkeypatch.delenv("VOLTRADE_API_KEY", raising=False)
    with pytest.raises(Refused, match=f"{parameter}.*{rule}") as refused:
        papermill.execute_notebook(
            ROOT / "notebooks/live.ipynb",
            tmp_path / "wrong.ipynb",
            {"threshold": 730, parameter: value} | ({"mode": "live"} if parameter == "threshold" else {}),
            progress_bar=False,
        )
    assert list(tmp_path.iterdir()) == []
    assert CANARY not in "".join([str(refused.value), *capfd.readouterr()])


def check_bars(run: Path, tape: Path, symbol: str, threshold: str) -> None:
    """Every field of every bar equals an independent fold in plain Python decimals."""
    instrument = shipped_instrument(symbol)
    trades = load_trades(tape, instrument).trades
    rows = zip(
        trades.id.tolist(),
        [instrument.price(price) for price in trades.price.tolist()],
        [instrument.quantity(lots) for lots in trades.quantity.tolist()],
        trades.time.tolist(),
        trades.buyer_is_maker.tolist(),
        strict=True,
    )
    check_bars_of(run, rows, instrument, Decimal(threshold))


@pytest.mark.recordings
def test_real_trades_with_holes_are_seen_tried_and_tainted(tmp_path: Path, recordings: Path) -> None:
    """In the first 20,000 trades of the day 150 ids are missing, in 9 gaps."""
    [day] = (recordings / "spot_trades").glob("LTCUSDT*.csv.gz")
    tape = tmp_path / "LTCUSDT-trades.csv"
    with gzip.open(day, "rt") as lines:
        tape.write_text("".join(islice(lines, 1 + 20_000)))
    run_engine(tmp_path / "ltc", symbol="LTCUSDT", tape=str(tape), threshold=250)
    check_run(tmp_path / "ltc")
    check_bars(tmp_path / "ltc", tape, "LTCUSDT", "250")
    facts = facts_of(tmp_path / "ltc")
    gaps = [fact for fact in facts if isinstance(fact, FeedGap)]
    assert len(gaps) == 9
    assert sum(gap.last_id - gap.first_id + 1 for gap in gaps) == 150
    assert {gap.filled for gap in gaps} == {0}
    asked = [row for row in Truth.of(tmp_path / "ltc").kind("request") if row["path"].endswith("aggTrades")]
    assert len(asked) >= 9
    assert len([fact for fact in facts if isinstance(fact, Alert) and fact.code == "FEED_GAP"]) == 9
    assert 1 <= sum(bar["tainted"] for bar in bars_of(tmp_path / "ltc")) <= 9


@pytest.mark.recordings
@pytest.mark.parametrize(("clip", "threshold"), [("20230404T2358", 20), ("20240718T2357", 20), ("20240808T2354", 40)])
def test_real_futures_trades_across_midnight(tmp_path: Path, recordings: Path, clip: str, threshold: int) -> None:
    [tape] = (recordings / "usdm_trades").glob(f"*{clip}*.csv.gz")
    settings = {"ema_fast": 2, "ema_slow": 3, "rsi_length": 2, "atr_length": 2, "bollinger_length": 2, "vwap_length": 2}
    run_engine(tmp_path / "clip", tape=str(tape), threshold=threshold, cooldown_bars=0, **settings)
    check_run(tmp_path / "clip")
    check_bars(tmp_path / "clip", tape, "BTCUSDT", str(threshold))
