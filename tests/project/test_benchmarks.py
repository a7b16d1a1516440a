"""Benchmarks run, on little data: what they measure is looked at elsewhere, on a quiet machine."""

from __future__ import annotations

import subprocess
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
        ("bench_reload", ["--trades", "150000"], ["parsing the CSV", "loading again / parsing: "]),
        ("bench_explorer", ["--trades", "50000"], ["5,000 candles: ", "round trips and equity"]),
        ("bench_backtest", ["--trades", "300000", "--without-peers"], ["compiled / event by event: "]),
        ("bench_sweep", ["--trades", "300000", "--without-peers"], [" settings; medians of 1 rounds", " MiB"]),
    ],
)
def test_a_benchmark_runs_and_prints_its_goals(name: str, given: list[str], said: list[str]) -> None:
    command = [sys.executable, "-m", f"benchmarks.{name}", "--rounds", "1", *given]
    ran = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300, check=False)
    assert ran.returncode in (0, 1), ran.stderr  # 1 says that a goal was missed, on so little data
    for text in said:
        assert text in ran.stdout
