"""Benchmarks run, on little data: what they measure is looked at elsewhere, on a quiet machine."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize(
    ("name", "given", "said"),
    [
        (
            "bench_bars",
            ["--trades", "50000", "--without-peers"],
            ["voltrade / limit: ", "bars of    10 trades"],
        ),
        ("bench_reload", ["--trades", "50000"], ["parsing the CSV", "loading again / parsing: "]),
        ("bench_explorer", ["--trades", "50000"], ["5,000 candles: ", "round trips and equity"]),
        ("bench_backtest", ["--trades", "100000", "--without-peers"], ["compiled / event by event: "]),
        ("bench_sweep", ["--trades", "100000", "--without-peers"], [" settings; medians of 1 rounds", " MiB"]),
    ],
)
def test_a_benchmark_runs_and_prints_its_goals(
    name: str,
    given: list[str],
    said: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("VOLTRADE_STORE", str(tmp_path))  # one of them sets it anew
    monkeypatch.syspath_prepend(str(ROOT))
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(sys, "argv", [name, "--rounds", "1", *given])
    assert importlib.import_module(f"benchmarks.{name}").main() in (0, 1)  # 1: a goal was missed, on so little data
    told = capsys.readouterr().out
    for text in said:
        assert text in told
