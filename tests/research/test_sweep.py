"""Sweeps: each row is a backtest, whoever ran it; and what luck alone explains is called no evidence."""

from __future__ import annotations

import functools
import math
import re
from collections.abc import Iterator, Sequence
from concurrent.futures import Executor, ProcessPoolExecutor, ThreadPoolExecutor
from dataclasses import replace
from multiprocessing import get_context
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pandas as pd
import pytest

from voltrade.compiled import Record, compiled
from voltrade.config import Config, SignalSettings, parameter_homes
from voltrade.data.tape import Tape, TapeReport, load_tape
from voltrade.errors import ConfigError, DataError
from voltrade.model import HOUR_MS, Funding, Marks, Trades
from voltrade.report import performance
from voltrade.report.judgement import judge
from voltrade.report.sweep_charts import luck_chart
from voltrade.research.backtest import backtest
from voltrade.research.prepared_tape import Research
from voltrade.research.splits import k_fold_splits, walk_forward_splits
from voltrade.research.sweep import sweep
from voltrade.research.trial_worker import performance_data_of
from voltrade.research.trials import COLUMNS, FIGURES
from voltrade.research.walk_forward import _apart, walk_forward
from voltrade.signal_engine import ATR, EMA, Indicator, SignalEngine
from voltrade.simulated.symbols import shipped_instrument
from voltrade.strategy.rule_file import load_rule, read_parameters

QUICK = {
    **{"seed": 7, "hours": 30.0, "threshold": 30, "cooldown_bars": 1, "take_profit_atr": 2.0},
    **{"ema_fast": 5, "ema_slow": 13, "rsi_length": 7, "atr_length": 7},
}
CONFIG = Config.from_parameters(QUICK)
GRID = {"threshold": [30, 60], "ema_fast": [3, 8, 20], "stop_atr": [1.5, 3.0]}


@pytest.fixture(scope="module")
def played() -> Tape:
    return load_tape(CONFIG.session, shipped_instrument("BTCUSDT"))


# --- rows -------------------------------------------------------------------------------------------------------------


def twice(played: Tape) -> Tape:
    """The tape with a trade's id a second time: the exchange sees it, the bars don't, so it runs event by event."""
    ids = played.trades.id.copy()
    ids[100_000] = ids[99_999]
    return replace(played, trades=replace(played.trades, id=ids))


@pytest.mark.parametrize("path", ["compiled", "events"])
def test_a_row_is_a_backtest(played: Tape, path: str) -> None:
    traded = played if path == "compiled" else twice(played)
    found = sweep(traded, CONFIG, {"stop_atr": [1.5, 3.0], "unit": ["base"], "ema_fast": [3]}, progress=False)
    assert set(found.frame["path"]) == {path}
    for number, row in found.frame.iterrows():
        expected = backtest(traded, found.config(int(str(number)))).statistics
        for name in FIGURES:
            assert row[name] == pytest.approx(getattr(expected, name), rel=1e-9, abs=1e-9, nan_ok=True), name
        assert row["round_trips"] > 0


def test_every_allowed_combination_is_tried_and_the_others_are_named(played: Tape) -> None:
    found = sweep(played, CONFIG, GRID, progress=False)
    assert found.trials == len(found.frame) == 8
    assert list(found.frame.columns[:3]) == ["threshold", "ema_fast", "stop_atr"]
    assert found.frame[["threshold", "ema_fast", "stop_atr"]].iloc[1].to_list() == [30, 3, 3.0]
    assert set(found.refused["ema_fast"]) == {20}
    assert found.refused["reason"].str.contains("ema_fast must be below ema_slow, were 20 and 13").all()
    assert found.frame.groupby("threshold")["bars"].nunique().to_list() == [1, 1]
    assert found.best == found.frame["sharpe"].idxmax()
    assert found.config().exits.stop_atr == found.frame["stop_atr"][found.best]
    again = found.backtest()
    assert len(again.round_trips) == found.frame["round_trips"][found.best]


def test_what_can_not_be_swept_is_refused(played: Tape) -> None:
    with pytest.raises(ConfigError, match="foo: unknown parameter"):
        sweep(played, CONFIG, {"foo": [1]})
    with pytest.raises(ConfigError, match=r"must have at least one setting that is allowed, had none: .*ema_fast"):
        sweep(played, CONFIG, {"ema_fast": [50, 60]})
    with pytest.raises(ConfigError, match="stop_atr: must be values in a grid"):
        sweep(played, CONFIG, {"stop_atr": lambda chance: chance.uniform(1, 2)})
    with pytest.raises(ConfigError, match=r"hours: can't vary in a search, which trades one tape, was \[1.0, 2.0\]"):
        sweep(played, CONFIG, {"stop_atr": [1.5], "hours": [1.0, 2.0]})
    with pytest.raises(ConfigError, match="rule: can't vary where CoinFlip is given"):
        sweep(played, CONFIG, {"rule": ["rules/adx.py:Adx"]}, rule=CoinFlip)
    with pytest.raises(DataError, match="tape: must be of LTCUSDT, was of BTCUSDT"):
        sweep(played, CONFIG.changed(symbol="LTCUSDT"), {"stop_atr": [1.5]})


def test_what_the_symbol_makes_impossible_is_no_trial(played: Tape) -> None:
    found = sweep(played, CONFIG, {"threshold": [30, 0.0001], "unit": ["base"]}, progress=False)
    assert found.trials == 1
    (reason,) = found.refused["reason"]
    assert reason == "threshold: must be a multiple of BTCUSDT's step 0.001, was 0.0001"


RULE_FILE = """
from voltrade.strategy.rule_file import load_rule, read_parameters
from voltrade.signal_engine import ATR, EMA, SignalEngine

class Cross(SignalEngine):
    indicators = (EMA, ATR)
    conditions = {{"crossed": int}}

    @staticmethod
    def _detect_signal(state, bar, settings, decision):
        decision.crossed = {side} if state.ema_side * state.ema_side_before < 0 else 0
        return decision.crossed
"""


OWN_SETTINGS = """
from voltrade.config import SignalSettings
from voltrade.strategy.rule_file import load_rule, read_parameters
from voltrade.signal_engine import ATR, EMA, SignalEngine

class OwnSettings(SignalSettings):
    {name}: int = 1

class Own(SignalEngine):
    settings_type = OwnSettings
    indicators = (EMA, ATR)
    conditions = {{"crossed": int}}

    @staticmethod
    def _detect_signal(state, bar, settings, decision):
        decision.crossed = {side} if state.bars % (settings.{name} * 10) == 0 else 0
        return decision.crossed
"""


def own_rule(folder: Path, stem: str, name: str, side: int = 1) -> str:
    """A rule file with one setting of its own, every ten times which bars it enters."""
    (folder / f"{stem}.py").write_text(OWN_SETTINGS.format(name=name, side=side))
    return f"{folder}/{stem}.py:Own"


def test_each_rule_has_the_settings_that_it_knows(played: Tape, tmp_path: Path) -> None:
    fast, slow = own_rule(tmp_path, "fast", "pace"), own_rule(tmp_path, "slow", "patience")
    grid = {"pace": [1, 2], "rule": ["", fast, slow]}
    for config in (CONFIG, read_parameters(QUICK, rule=fast, pace=7), read_parameters(QUICK, rule=slow)):
        found = sweep(played, config, grid, progress=False)
        assert found.frame["rule"].to_list() == ["", fast, slow, fast]
        assert found.frame["pace"].fillna(0).to_list() == [0, 1, 0, 2]
        for number in range(found.trials):
            assert found.frame["net"][number] == pytest.approx(backtest(played, found.config(number)).statistics.net)
    with pytest.raises(ConfigError, match="haste: unknown parameter"):
        sweep(played, CONFIG, {**grid, "haste": [1]}, progress=False)


def test_a_result_stays_of_the_rule_that_it_was_found_by(played: Tape, tmp_path: Path) -> None:
    own_rule(tmp_path, "fast", "pace")
    found = sweep(played, CONFIG, {"rule": [f"{tmp_path}/fast.py:Own"]}, progress=False)
    own_rule(tmp_path, "fast", "pace", side=-1)
    assert found.backtest().statistics.long_trips == found.frame["long_trips"][0] > 0
    assert found.judgement.round_trips == found.frame["round_trips"][0]
    assert found.judgement.sharpe == pytest.approx(found.frame["sharpe"][0])


def test_no_parameter_is_named_like_a_figure(played: Tape) -> None:
    assert not set(parameter_homes()) & set(COLUMNS)
    found = sweep(played, CONFIG, {"max_drawdown_fraction": [0.001, 1.0]}, progress=False)
    assert found.frame["max_drawdown_fraction"].to_list() == [0.001, 1.0]
    assert 0 > found.frame["max_drawdown_part"][0] > found.frame["max_drawdown_part"][1]


@pytest.mark.parametrize("path", ["compiled", "events"])
def test_a_setting_that_the_breaker_switched_off_says_so(played: Tape, path: str) -> None:
    traded = played if path == "compiled" else twice(played)
    found = sweep(traded, CONFIG, {"max_drawdown_fraction": [0.001, 1.0]}, progress=False)
    run = backtest(traded, found.config(0)).frames()
    [since] = run.breaker.index[run.breaker["rule"] == "DRAWDOWN"]
    assert found.frame["halted"].to_list() == [f"DRAWDOWN {since:%Y-%m-%d %H:%M} UTC", ""]
    assert "The circuit breaker halted 1 of the settings" in found.assessment
    assert "halted" in found._repr_html_()


def test_results_state_what_no_trade_gave_and_mark_what_is_mostly_that(played: Tape) -> None:
    """Without looking ahead, only trades of the millisecond of its arrival price what takes, if there are any."""
    found = sweep(played, CONFIG, {"fill_horizon_s": [0.0, 10.0], "risk_fraction": [0.001]}, progress=False)
    blind, seeing = found.frame["extrapolated"]
    assert 0.8 < blind <= 1
    assert 0 < seeing < 0.25
    assert "Of 1 settings more than 25% of the notional is extrapolated" in found.assessment
    for number, (part, marked) in enumerate([(blind, True), (seeing, False)]):
        for path in ("compiled", "events"):
            done = backtest(played, found.config(number), path=path)  # type: ignore[arg-type]
            assert done.extrapolated == part
            (note,) = (note for note in done.notes() if note.startswith("extrapolated"))
            assert note.startswith(f"extrapolated: {part:.1%} of the notional")
            assert ("MORE THAN 25%" in note) is marked
    folds = walk_forward(played, CONFIG, {"fill_horizon_s": [0.0]}, folds=1, progress=False).frame
    assert folds["extrapolated"][0] > 0.8


def test_a_walk_forward_says_what_the_breaker_switched_off_in_training_and_in_the_test(played: Tape) -> None:
    found = walk_forward(played, CONFIG, {"max_drawdown_fraction": [0.001]}, folds=1, progress=False)
    halted, in_training = found.frame["halted"][0], found.frame["halted, training"][0]
    assert in_training.startswith("DRAWDOWN ")
    assert halted.startswith("DRAWDOWN ")
    assert in_training < halted
    unhalted = walk_forward(played, CONFIG, {"max_drawdown_fraction": [1.0]}, folds=1, progress=False).frame
    assert (unhalted["halted"][0], unhalted["halted, training"][0]) == ("", "")


@pytest.mark.parametrize("name", ["bars", "path", "begin", "end"])
def test_a_setting_that_the_table_would_hide_is_refused(played: Tape, tmp_path: Path, name: str) -> None:
    with pytest.raises(ConfigError, match=f"{name}: can't vary in a search, whose table has a column of this name"):
        sweep(played, CONFIG, {name: [1, 2]}, rule=load_rule(own_rule(tmp_path, "own", name)), progress=False)


def test_what_can_not_be_traded_is_refused_and_the_rest_is_kept(played: Tape) -> None:
    grid = {"unit": ["quote"], "threshold": [5, 1_000_000]}
    found = sweep(played, CONFIG, grid, progress=False)
    assert found.frame["threshold"].to_list() == [1_000_000]
    assert found.refused["threshold"].to_list() == [5]
    assert found.frame["net"][0] == pytest.approx(found.backtest().statistics.net)
    rules = sweep(played, CONFIG, {"rule": ["", "rules/nope.py:Adx"]}, progress=False)
    assert rules.frame["rule"].to_list() == [""]
    assert "rules/nope.py must be a file" in rules.refused["reason"][0]
    assert walk_forward(played, CONFIG, grid, folds=2, progress=False).trials == 1
    with pytest.raises(ConfigError, match=r"had none: .*bars"):
        sweep(played, CONFIG, {**grid, "threshold": [5]}, progress=False)


@pytest.mark.parametrize(
    ("name", "largest"),
    [
        *[(name, 10**9) for name in ("wallet", "capital", "latency_ms", "mark_interval_s", "cooldown_bars")],
        *[(name, 1e9) for name in ("cooldown_s", "max_holding_s", "duration_s", "resume_after_s", "order_stale_s")],
        *[(name, 1e4) for name in ("slippage_bps", "max_slippage_bps", "min_stop_bps")],
        *[(name, 100_000) for name in ("vwap_length", "ema_slow", "rsi_length", "atr_length")],
        pytest.param("bollinger_length", 100_000, marks=pytest.mark.campaign),  # another layout to compile
    ],
)
def test_the_largest_number_can_be_traded_and_larger_ones_are_refused(played: Tape, name: str, largest: float) -> None:
    found = sweep(played, CONFIG, {name: [largest, largest + 1, largest * 10**290]}, end_s=600.0, progress=False)
    assert found.frame[name].to_list() == [largest]
    assert found.refused["reason"].str.match(f"{name}: .*less than or equal to").all()


def test_one_setting_among_others_that_can_not_be_traded_is_refused_alone(
    played: Tape, monkeypatch: pytest.MonkeyPatch
) -> None:
    trade = Research.trade

    def failing(self: Research, config: Config, *given: Any, **named: Any) -> Any:
        if config.exits.stop_atr == 2.0:
            raise DataError("stop_atr: can't be traded")
        return trade(self, config, *given, **named)

    monkeypatch.setattr(Research, "trade", failing)
    found = sweep(played, CONFIG, {"stop_atr": [1.5, 2.0, 3.0]}, progress=False)
    assert found.frame["stop_atr"].to_list() == [1.5, 3.0]
    assert found.refused.to_dict("records") == [{"stop_atr": 2.0, "reason": "stop_atr: can't be traded"}]


@pytest.mark.parametrize("trials", [None, 3])
@pytest.mark.parametrize(
    ("given", "rule"),
    [
        ("market", "must be values, as in ['market'], or a function that draws one, was 'market'"),
        (5, "must be values, as in [5], or a function that draws one, was 5"),
        ([], "must have at least one value to try, was []"),
    ],
)
def test_choices_that_are_none_are_refused(played: Tape, trials: int | None, given: Any, rule: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(f"entry: {rule}")):
        sweep(played, CONFIG, {"entry": given}, trials=trials, progress=False)


@pytest.mark.parametrize("trials", [None, 30])
def test_choices_may_be_any_collection(played: Tape, trials: int | None) -> None:
    lengths = pd.Series([2, 3, 5, 8])
    for choices in (lengths[lengths > 2], {3, 5, 8}, (length for length in (3, 5, 8)), np.array([3, 5, 8])):
        found = sweep(played, CONFIG, {"ema_fast": choices}, trials=trials, progress=False)
        assert set(found.frame["ema_fast"]) == {3, 5, 8}


def test_what_is_tried_twice_is_one_trial(played: Tape) -> None:
    found = sweep(played, CONFIG, {"ema_fast": [3, 5, 3]}, progress=False)
    drawn = sweep(played, CONFIG, {"ema_fast": [3, 5]}, trials=40, progress=False)
    assert found.trials == drawn.trials == drawn.judgement.trials == 2
    assert drawn.judgement.luckiest == pytest.approx(found.judgement.luckiest)


@pytest.mark.parametrize(
    "grid",
    [
        {"bollinger_length": [20, 300], "rsi_length": range(5, 11)},  # more rules than go side by side, in two layouts
        {"rule": ["{folder}/long.py:Cross", "{folder}/short.py:Cross"], "stop_atr": [1.5, 3.0]},
        {"stop_atr": [1.5, 3.0], "duration_s": [0.0, 40_000.0]},
        {"stop_atr": [1.5, 3.0], "most_bars_a_day": [100.0]},  # which a backtest tells of, event by event
    ],
)
def test_settings_that_are_handed_out_together_share_no_more_than_they_may(
    played: Tape, grid: dict[str, Sequence[Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, side in (("long", 1), ("short", -1)):
        (tmp_path / f"{name}.py").write_text(RULE_FILE.format(side=side))
    grid = {name: [v.format(folder=tmp_path) if isinstance(v, str) else v for v in grid[name]] for name in grid}
    monkeypatch.setattr("voltrade.research.trial_executor.FEWEST_TASKS", 1)
    found = sweep(played, CONFIG, grid, progress=False)
    assert found.frame["net"].nunique() > found.trials / 2
    for number in range(found.trials):
        expected = backtest(played, found.config(number)).statistics
        row = found.frame.iloc[number]
        assert (row["long_trips"], row["short_trips"]) == (expected.long_trips, expected.short_trips)
        assert row["net"] == pytest.approx(expected.net, abs=1e-6)


@compiled
def _smooth(state: Record, bar: Record, settings: Record, assessment: Record) -> None:
    """Writes over the close of its bar."""
    state.smooth = bar.close if state.bars == 0 else 0.5 * (state.smooth + bar.close)
    bar.close = state.smooth
    assessment.smooth = state.smooth


class Smoothed(SignalEngine):
    """The built-in rule on smoothed closes."""

    indicators = (Indicator(("smooth",), _smooth, lambda settings: 1, {"smooth": float}), *SignalEngine.indicators)


def test_a_rule_that_writes_to_its_bar_is_refused_before_anything_is_traded(played: Tape) -> None:
    research, grid = Research(played), {"ema_fast": [3, 5, 8]}
    with pytest.raises(ConfigError, match=r"_smooth changes bar.close, which it may only read"):
        sweep(research, CONFIG, grid, rule=Smoothed, progress=False)


def test_a_random_search_draws_the_same_for_the_same_seed(played: Tape) -> None:
    grid = {"stop_atr": lambda chance: chance.uniform(1, 4), "ema_fast": range(3, 9), "allow_short": [True, False]}
    first, again, other = (sweep(played, CONFIG, grid, trials=6, seed=seed, progress=False) for seed in (1, 1, 2))
    pd.testing.assert_frame_equal(first.frame, again.frame)
    assert first.trials == 6
    assert not first.frame["stop_atr"].equals(other.frame["stop_atr"])
    assert first.frame["stop_atr"].between(1, 4).all()
    assert set(first.frame["ema_fast"]) <= set(range(3, 9))


def test_a_stretch_is_swept_as_it_is_backtested(played: Tape) -> None:
    found = sweep(played, CONFIG, {"stop_atr": [1.5]}, begin_s=20_000.0, end_s=80_000.0, progress=False)
    expected = backtest(played, found.config(0), begin_s=20_000.0, end_s=80_000.0)
    assert found.frame["net"][0] == pytest.approx(expected.statistics.net)
    assert found.frame["bars"][0] == len(expected.frames().bars)


# --- where it runs ----------------------------------------------------------------------------------------------------


def with_funding(played: Tape) -> Tape:
    """The tape with mark prices, the last trade's, and a funding rate of 0.1% each hour."""
    trades = played.trades
    minutes = np.arange(trades.time[0] // 60_000 + 1, trades.time[-1] // 60_000, dtype=np.int64) * 60_000
    price = trades.price[np.searchsorted(trades.time, minutes) - 1] * 10_000_000
    hours = minutes[minutes % 3_600_000 == 0]
    return replace(played, marks=Marks(minutes, price), funding=Funding(hours, np.full(len(hours), 100_000)))


@pytest.fixture(scope="module")
def processes() -> Iterator[Executor]:
    with ProcessPoolExecutor(2, mp_context=get_context("spawn")) as pool:
        yield pool


@pytest.fixture
def dask_cluster() -> Iterator[Executor]:
    distributed = pytest.importorskip("distributed")
    local = {"n_workers": 1, "threads_per_worker": 1, "processes": True, "dashboard_address": None}
    with distributed.LocalCluster(**local) as cluster, distributed.Client(cluster) as client:
        yield client.get_executor()


@pytest.mark.parametrize("executor", ["processes", "dask_cluster"])
def test_processes_and_a_cluster_find_what_threads_find(
    played: Tape, executor: str, request: pytest.FixtureRequest
) -> None:
    plain, valued = (
        sweep(played, CONFIG, GRID, progress=False),
        sweep(with_funding(played), CONFIG, GRID, progress=False),
    )
    assert (plain.frame["funding"] == 0).all()
    assert (valued.frame["funding"] != 0).any()
    pool = request.getfixturevalue(executor)
    for here, traded in ((plain, played), (valued, with_funding(played))):
        there = sweep(traded, CONFIG, GRID, executor=pool, progress=False)
        pd.testing.assert_frame_equal(there.frame, here.frame)
        assert there.assessment == here.assessment


@pytest.mark.parametrize("is_given", [False, True])
def test_processes_find_what_threads_find_of_a_rule_file(
    played: Tape, tmp_path: Path, is_given: bool, processes: Executor
) -> None:
    fast, slow = own_rule(tmp_path, "fast", "pace"), own_rule(tmp_path, "slow", "patience")
    grid: dict[str, Any] = {"stop_atr": [1.5, 3.0], "pace": [1, 2]} | ({} if is_given else {"rule": ["", fast, slow]})
    rule = load_rule(fast) if is_given else None
    here = sweep(played, CONFIG, grid, rule=rule, progress=False)
    there = sweep(played, CONFIG, grid, rule=rule, executor=processes, progress=False)
    pd.testing.assert_frame_equal(there.frame, here.frame)
    if is_given:
        Path(fast.removesuffix(":Own")).write_text("edited = True")
        with pytest.raises(ConfigError, match="must be the one that the search was begun with"):
            sweep(played, CONFIG, grid, rule=rule, executor=processes, progress=False)


def test_a_piece_is_no_longer_than_one_can_wait_for(played: Tape, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []

    class Counting(ThreadPoolExecutor):
        def submit(self, fn: Any, /, *given: Any, **named: Any) -> Any:
            asked.append(len(given[2]))
            return super().submit(fn, *given, **named)

    monkeypatch.setattr("voltrade.research.trial_executor.LARGEST_TASK", 3)
    monkeypatch.setattr("voltrade.research.trial_executor.FEWEST_TASKS", 1)
    with Counting(1) as pool:
        sweep(played, CONFIG, {"stop_atr": np.arange(1.0, 3.0, 0.25)}, executor=pool, progress=False)
    assert sorted(asked) == [2, 3, 3]


def test_progress_is_shown(played: Tape, capsys: pytest.CaptureFixture[str]) -> None:
    sweep(played, CONFIG, {"stop_atr": [1.5, 3.0]})
    assert "2/2" in capsys.readouterr().err


class Halves(SignalEngine):
    """Returns a half where the close is above the open."""

    indicators = (EMA, ATR)
    conditions: ClassVar[dict[str, type]] = {}

    @staticmethod
    def _detect_signal(state: Record, bar: Record, settings: Record, decision: Record) -> int:
        return 0.5 if bar.close > bar.open else 0.0  # type: ignore[return-value]


SEEN: list[float] = []


class Hoards(Halves):
    @staticmethod
    def _detect_signal(state: Record, bar: Record, settings: Record, decision: Record) -> int:
        SEEN.append(bar.close)
        return 0


@pytest.mark.parametrize(
    ("rule", "said"),
    [
        (Halves, "Halves._detect_signal: must return -1, 0 or 1, at bar"),
        (Hoards, "rule: Hoards._detect_signal reads SEEN, a list"),
    ],
)
def test_a_rule_that_is_none_is_refused_at_once(played: Tape, rule: type[SignalEngine], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        sweep(played, CONFIG, {"stop_atr": [1.5, 2.0]}, rule=rule, progress=False)
    assert not SEEN


# --- luck -------------------------------------------------------------------------------------------------------------


class FlipSettings(SignalSettings):
    flip_seed: int = 0


class CoinFlip(SignalEngine):
    """Enters after about one bar in six, to a side that only the bar's number and the seed decide."""

    settings_type = FlipSettings
    indicators = (EMA, ATR)
    conditions: ClassVar = {"drawn": int}

    @staticmethod
    def _detect_signal(state: Record, bar: Record, settings: Record, assessment: Record) -> int:
        drawn = (state.bars * 7_919 + settings.flip_seed * 104_729) % 1_000_003
        for _ in range(5):
            drawn = (drawn * 48_271 + 11) % 2_147_483_647
        assessment.drawn = drawn % 12
        return 1 if assessment.drawn == 0 else -1 if assessment.drawn == 1 else 0


def walk(seed: int, drift: np.ndarray | None = None, size: int = 20_000, days: float = 40.0) -> Tape:
    """A tape of a random walk without costs to speak of, with a drift of so many ticks a trade on top."""
    chance = np.random.default_rng(seed)
    steps = 60 * chance.standard_normal(size) + (0 if drift is None else drift)
    start, length = 1_767_571_200_000, int(days * 86_400_000)
    trades = Trades(
        "BTCUSDT",
        id=np.arange(1, size + 1),
        price=np.maximum(800_000 + np.cumsum(steps), 100_000).astype(np.int64),
        quantity=np.full(size, 1_000, dtype=np.int64),
        time=start + np.sort(chance.integers(0, length, size)),
        buyer_is_maker=chance.random(size) < 0.5,
    )
    return Tape(trades, TapeReport(size, size, start, start + length), f"walk {seed}", True)


FAIR = Config.from_parameters(
    **{"threshold": 20, "taker_fee": 0.0, "slippage_bps": 0.0, "min_stop_bps": 0.0, "order_stale_s": 3_600.0},
    **{"ema_fast": 3, "ema_slow": 8, "atr_length": 5, "stop_atr": 3.0, "take_profit_atr": 3.0, "cooldown_bars": 0},
    **{"max_drawdown_fraction": 1.0, "max_daily_loss_fraction": 1.0, "max_consecutive_losses": 1_000},
    **{"use_bollinger_breakout": False, "use_rsi_filter": False, "use_vwap_filter": False, "max_trades_per_day": 1_000},
    signals=FlipSettings,
)


def test_the_best_of_many_coin_flips_is_no_evidence() -> None:
    """On 40 driftless tapes the best of 20 coin flips is called evidence no more often than 1 in 20 explains."""
    searches = [sweep(walk(seed), FAIR, {"flip_seed": range(20)}, rule=CoinFlip, progress=False) for seed in range(40)]
    assert min(search.frame["round_trips"].min() for search in searches) > 20
    # The best of twenty looks splendid, as a table of Sharpe ratios would have it.
    assert np.mean([search.judgement.sharpe for search in searches]) > 5
    evidence = [search for search in searches if search.judgement.is_evidence]
    assert len(evidence) <= 5, [search.assessment for search in evidence]
    assert all(search.assessment.startswith(("No evi", "Too few")) for search in searches if search not in evidence)


def test_a_backtest_counts_as_what_its_engine_trades(played: Tape) -> None:
    """Not as the settings beside it: engines of four settings, and one that has seen bars before, are five trials."""
    instrument, research = shipped_instrument("BTCUSDT"), Research(played)
    engines = [SignalEngine(CONFIG.changed(ema_fast=fast).signals, instrument) for fast in (3, 5, 8, 12)]
    found = [backtest(research, CONFIG, engine) for engine in engines]
    assert [result.config.signals.ema_fast for result in found] == [3, 5, 8, 12]
    assert [result.judgement.trials for result in found] == [1, 2, 3, 4]
    assert backtest(research, CONFIG.changed(ema_fast=5)).judgement.trials == 4, "it is the second again"
    assert backtest(research, CONFIG, engines[0]).judgement.trials == 5


def test_a_walk_forward_does_not_launder_a_search() -> None:
    """The best of 40 coin flips, walked forward over the time that it was chosen on, was chosen there."""
    research, flips = Research(walk(3)), range(40)
    best = sweep(research, FAIR, {"flip_seed": flips}, rule=CoinFlip, progress=False).config().signals
    assert isinstance(best, FlipSettings)
    alone = walk_forward(research, FAIR, {"flip_seed": [best.flip_seed]}, folds=3, rule=CoinFlip, progress=False)
    assert alone.judgement.trials == 40, "the joined tests, and 39 flips besides its own"
    assert "what was chosen in 3 folds, 40 with the others tried on this market," in alone.assessment
    assert not alone.judgement.is_evidence
    alone.searches.forget()
    assert (
        walk_forward(
            research, FAIR, {"flip_seed": [best.flip_seed]}, folds=3, rule=CoinFlip, progress=False
        ).judgement.chance
        < alone.judgement.chance / 4
    )


@pytest.mark.parametrize("scheme", ["expanding", "rolling", "k_fold"])
def test_a_search_is_not_laundered_by_a_walk_forward(scheme: Any) -> None:
    """What the last fold chose of 20 coin flips is judged as the best of them, as after a sweep."""
    research, flips, fair = Research(walk(3)), {"flip_seed": range(20)}, FAIR.changed(begin_s=1_800.0)
    folds = walk_forward(research, fair, flips, folds=2, scheme=scheme, rule=CoinFlip, progress=False)
    chosen = {"flip_seed": [int(folds.frame["flip_seed"].iloc[-1])]}
    shown = sweep(research, fair, chosen, rule=CoinFlip, progress=False)
    assert shown.judgement.trials == 21
    (tried,) = [search for search in shown.searches.others if search.kind == "settings"]
    swept = sweep(research, fair, flips, rule=CoinFlip, progress=False)
    assert (tried.name, tried.what) == (swept.searches.own.name, "flip_seed"), "the same settings, market and time"
    assert tried.sharpe > swept.searches.own.sharpe / 2 > 0, "the best of them"
    assert tried.luckiest.independent > 10
    assert tried.luckiest.median == pytest.approx(swept.searches.own.luckiest.median, abs=0.4)
    assert folds.judgement.trials == 1, "no test has decided anything"


@pytest.mark.parametrize(("seed", "strength", "says"), [(4, 15, ""), (0, 4, "Too few"), (3, 15, "Too few")])
def test_an_edge_is_evidence_where_some_more_losses_leave_enough_of_it(seed: int, strength: int, says: str) -> None:
    """Prices that trend for hours, up or down, and a rule that follows averages."""
    trend = np.repeat(np.where(np.arange(34) % 2, strength, -strength), 600)[:20_000]
    grid = {"ema_fast": [3, 5, 8], "ema_slow": [13, 21]}
    found = sweep(walk(seed, trend), FAIR.changed(stop_atr=5.0), grid, progress=False)
    assert found.judgement.chance <= 0.05
    assert found.assessment.startswith(f"{says} losses to say: " if says else "Evidence: ")
    assert found.judgement.is_evidence != bool(says)
    assert "the best of 6 settings has a Sharpe ratio of" in found.assessment


# --- walk-forward -----------------------------------------------------------------------------------------------------


def test_training_ends_before_each_test_by_the_purge() -> None:
    splits = walk_forward_splits(600.0, 5, purge_s=10.0)
    assert [split.test for split in splits] == [(100, 200), (200, 300), (300, 400), (400, 500), (500, None)]
    assert [split.train for split in splits] == [((0, end),) for end in (90, 190, 290, 390, 490)]
    rolling = walk_forward_splits(600.0, 5, rolling=True, purge_s=10.0)
    assert [split.train for split in rolling] == [((max(0, end - 100), end),) for end in (90, 190, 290, 390, 490)]


@pytest.mark.parametrize("purge_s", [0.0, 10.0])
def test_the_first_training_is_tried_as_well_as_all_tests(purge_s: float) -> None:
    """Together they are the tape, but for the purge; a training that reaches over a test would count it twice."""
    tests = [(100, 200), (200, 300), (300, None)]
    assert _apart(walk_forward_splits(400.0, 3, purge_s=purge_s)) == [(0, 100 - purge_s), *tests]
    assert _apart(k_fold_splits(400.0, 4)) == [(0, 100), *tests]


def test_folds_are_purged_on_both_sides_and_embargoed_behind() -> None:
    first, middle, last = k_fold_splits(300.0, 3, purge_s=10.0, embargo_s=5.0)
    assert first == (((115.0, None),), (0.0, 100.0))
    assert middle == (((0.0, 90.0), (215.0, None)), (100.0, 200.0))
    assert last == (((0.0, 190.0),), (200.0, None))


def test_the_warm_up_is_neither_trained_on_nor_tried_on(played: Tape) -> None:
    expanding, rolling = (walk_forward_splits(700.0, 2, begin_s=100.0, rolling=rolling) for rolling in (False, True))
    assert expanding == [(((100.0, 300.0),), (300.0, 500.0)), (((100.0, 500.0),), (500.0, None))]
    assert rolling == [(((100.0, 300.0),), (300.0, 500.0)), (((300.0, 500.0),), (500.0, None))]
    first, second = k_fold_splits(700.0, 2, begin_s=100.0)
    assert (first, second) == ((((400.0, None),), (100.0, 400.0)), (((100.0, 400.0),), (400.0, None)))
    found = walk_forward(played, CONFIG.changed(begin_s=36_000.0), {"stop_atr": [1.5]}, folds=1, progress=False)
    length_s = (int(played.trades.time[-1]) - int(played.trades.time[0])) / 1000
    test = backtest(played, CONFIG.changed(stop_atr=1.5), begin_s=(36_000 + length_s) / 2)
    assert found.frame["net"][0] == pytest.approx(test.statistics.net)
    assert found.frame["end"][0] == pd.Timestamp(int(played.trades.time[-1]), unit="ms", tz="UTC")


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"scheme": "kfold"}, "scheme: must be one of expanding, rolling, k_fold, was 'kfold'"),
        ({"folds": 0}, "folds: must be a whole number from 1 on, was 0"),
        ({"folds": 1, "scheme": "k_fold"}, "folds: must be a whole number from 2 on, was 1"),
        ({"folds": 2.0}, "folds: must be a whole number from 1 on, was 2.0"),
        ({"purge_s": -60.0}, "purge_s: must be a number of seconds from 0 on, was -60.0"),
        ({"purge_s": math.nan}, "purge_s: must be a number of seconds from 0 on, was nan"),
        ({"embargo_s": math.inf, "scheme": "k_fold"}, "embargo_s: must be a number of seconds from 0 on, was inf"),
        ({"seed": -1}, "seed: must be a whole number from 0 on, was -1"),
        ({"trials": 3.0}, "trials: must be a whole number from 1 on, was 3.0"),
        ({"trials": 0}, "trials: must be a whole number from 1 on, was 0"),
    ],
)
def test_an_impossible_walk_forward_is_refused_by_name(played: Tape, given: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(message)):
        walk_forward(played, CONFIG, {"stop_atr": [1.5]}, **given, progress=False)


@pytest.mark.parametrize(
    ("given", "error"),
    [
        ({"begin_s": math.nan}, "begin_s: must be finite, was nan"),
        ({"end_s": math.inf}, "end_s: must be finite, was inf"),
        ({"end_s": 0.0}, "tape: must have a trade from 0 s on and before 0 s, has none"),
    ],
)
def test_an_impossible_stretch_is_refused_by_name(played: Tape, given: dict[str, Any], error: str) -> None:
    for run in (backtest, functools.partial(sweep, grid={"stop_atr": [1.5]}, progress=False)):
        with pytest.raises((ConfigError, DataError), match=re.escape(error)):
            run(played, CONFIG, **given)  # type: ignore[operator]


def test_a_fold_without_training_is_refused(played: Tape) -> None:
    with pytest.raises(ConfigError, match="purging 100 s must leave something to train on before 60 s"):
        walk_forward_splits(600.0, 9, purge_s=100.0)
    with pytest.raises(ConfigError, match="folds"):
        walk_forward(played, CONFIG, GRID, folds=100, progress=False)


@pytest.mark.parametrize("scheme", ["expanding", "rolling", "k_fold"])
def test_what_was_chosen_in_training_is_tried_on_what_it_has_not_seen(
    played: Tape, scheme: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    grid = {"stop_atr": [1.5, 3.0], "ema_fast": [3, 8]}
    research = Research(played)
    found = walk_forward(research, CONFIG, grid, folds=3, scheme=scheme, progress=False)  # type: ignore[arg-type]
    assert (len(found.frame), found.trials) == (3, 4)
    start = int(played.trades.time[0])
    for _, row in found.frame.iterrows():
        begin_s, end_s = (row[name].timestamp() - start / 1000 for name in ("begin", "end"))
        chosen = CONFIG.changed(stop_atr=float(row["stop_atr"]), ema_fast=int(row["ema_fast"]))
        done = backtest(research, chosen, begin_s=begin_s, end_s=end_s)
        assert row["net"] == pytest.approx(done.statistics.net, abs=1e-6)
    given: dict[str, Any] = {}

    def told(*args: Any, **known: Any) -> Any:
        given.update(known)
        return judge(*args, **known)

    monkeypatch.setattr("voltrade.research.walk_forward.judge", told)
    assert found.judgement.round_trips == found.frame["round_trips"].sum()
    assert "what was chosen in 3 folds" in found.assessment
    assert (given["fall"], given["at_risk"]) == (found.frame["max_drawdown"].min(), found.frame["largest_r"].max())
    assert found.frame["max_drawdown"].nunique() > 1


def test_the_setting_of_a_fold_is_the_best_of_its_training(played: Tape) -> None:
    grid = {"stop_atr": [1.0, 2.0, 4.0]}
    found = walk_forward(played, CONFIG, grid, folds=2, purge_s=600.0, progress=False)
    length_s = (int(played.trades.time[-1]) - int(played.trades.time[0])) / 1000
    training = sweep(played, CONFIG, grid, end_s=2 * length_s / 3 - 600, progress=False)
    # 20 hours are judged by hours here, since the folds are short; a backtest of its own would be too short to tell.
    assert found.frame["sharpe, training"].notna().all()
    best_net = training.frame["net"].idxmax()
    assert training.frame["stop_atr"][best_net] == found.frame["stop_atr"][1]


def test_where_training_tells_nothing_nothing_is_tried(played: Tape) -> None:
    late = CONFIG.changed(atr_length=14)  # which is ready after the first training
    found = walk_forward(played, late, {"stop_atr": [1.5, 3.0]}, folds=3, purge_s=0.0, progress=False)
    assert found.frame["stop_atr"].isna().to_list() == [True, False, False]
    assert found.judgement.round_trips == found.frame["round_trips"].sum()
    assert "what was chosen in 2 of 3 folds" in found.assessment
    assert len(found.chart().data[0].y) == 3
    never = walk_forward(played, CONFIG, {"allow_long": [False], "allow_short": [False]}, folds=2, progress=False)
    nothing = (
        "No evidence: what was chosen in 0 of 2 folds, 4 with the others tried on this market, has no Sharpe ratio"
    )
    assert never.assessment == f"{nothing}, equity never moved."
    assert "0 of 2 folds" in never._repr_html_()


@pytest.mark.parametrize("hours", [30.0, 11.4])
def test_brief_tables_tell_a_position_by_its_lowest_valuations_and_the_last_of_each_hour(
    played: Tape, hours: float
) -> None:
    patient = CONFIG.changed(stop_atr=9.0, take_profit_atr=20.0, exit_on_opposite_signal=False)
    research = Research(played)
    found, span = research.signals(research.decisions(patient)), research.span(0.0, hours * 3600)
    (whole, _), (brief, _) = (research.trade(patient, found, span, is_brief=is_brief) for is_brief in (False, True))
    assert whole is not None
    assert brief is not None
    holds, holds_briefly = (np.count_nonzero(tables.equity["position"]) for tables in (whole, brief))
    assert holds > len(whole.equity) / 4
    assert holds_briefly < holds * 3 / 4
    worth = whole.equity["wallet"] + whole.equity["unrealised"]
    is_kept = np.isin(whole.equity["time"], brief.equity["time"])
    hour = (whole.equity["time"] - 1) // HOUR_MS
    ends_hour = np.append(hour[1:] != hour[:-1], True) & (whole.equity["position"] != 0)
    assert is_kept[ends_hour].all()
    assert is_kept[worth.argmin()]
    assert is_kept[worth.argmax()]
    bars, unit = research.bars(patient.bars).rows, research.instrument.money_per_ticklot
    (figures, returns), (same, same_returns) = (
        performance.figures_of(performance_data_of(tables, bars, unit), HOUR_MS) for tables in (whole, brief)
    )
    assert figures == same
    assert returns.values.tolist() == same_returns.values.tolist()


def test_what_a_tape_lacks_is_read_once_for_all_sweeps(played: Tape) -> None:
    research = Research(played)
    assert research.coverage() is research.coverage(0.0, None)
    assert research.coverage(3_600.0).trades < research.coverage().trades == len(played.trades)


# --- looks ------------------------------------------------------------------------------------------------------------


def test_a_result_shows_itself_and_its_heat_map(played: Tape) -> None:
    found = sweep(played, CONFIG, GRID, progress=False)
    page = found._repr_html_()
    assert (
        "8 settings of threshold, ema_fast, stop_atr on synthetic, seed 7, 30 h, 4 combinations are not allowed" in page
    )
    assert found.assessment.split(":")[0] in page
    figure = found.heat_map("ema_fast", "stop_atr", "net")
    (heat,) = figure.data
    assert (list(heat.x), list(heat.y)) == (["3", "8"], ["1.5", "3.0"])
    here = found.frame[(found.frame["ema_fast"] == 8) & (found.frame["stop_atr"] == 1.5)]
    assert heat.z[0][1] == pytest.approx(here["net"].mean())
    luck = found.luck_chart()
    (points,) = luck.data
    assert list(points.y) == sorted(found.frame["sharpe"])
    assert found.overfitting.text in page
    assert f"the luckiest of 8 worthless settings: {found.judgement.luckiest:.2f}" in luck.layout.annotations[0].text
    forward = walk_forward(played, CONFIG, {"stop_atr": [1.5, 3.0]}, folds=2, progress=False)
    training, test = forward.chart().data
    assert list(training.y) == list(forward.frame["sharpe, training"])
    assert list(test.y) == list(forward.frame["sharpe"])
    assert "2 folds on synthetic, seed 7, 30 h, each the best of 2 settings in training" in forward._repr_html_()


def test_settings_without_a_sharpe_ratio_are_drawn_as_none() -> None:
    (points,) = luck_chart(np.array([np.nan, np.nan]), math.nan).data
    assert len(points.y) == 0


def test_a_backtest_says_how_much_of_it_is_luck(played: Tape) -> None:
    found = backtest(played, CONFIG).judgement
    assert found.trials == 1
    swept = sweep(played, CONFIG, {"stop_atr": [CONFIG.exits.stop_atr]}, progress=False)
    assert found.sharpe == pytest.approx(swept.judgement.sharpe)
    assert found.at_risk == pytest.approx(swept.frame["largest_r"][0])
    assert found.at_risk > 0
    assert found.text in found._repr_html_()


def test_a_second_reading_of_a_backtest_or_walk_forward_counts_what_was_tried_since(played: Tape) -> None:
    research = Research(played)
    done = backtest(research, CONFIG)
    forward = walk_forward(research, CONFIG, {"stop_atr": [1.5, 3.0]}, folds=2, progress=False)
    assert (done.judgement.trials, forward.judgement.trials) == (4, 2), "one another, and the settings of the folds"
    length_s = (int(played.trades.time[-1]) - int(played.trades.time[0])) / 1_000
    thirds = [
        sweep(research, CONFIG, {"ema_fast": [6, 7]}, begin_s=part * length_s / 3, end_s=end, progress=False)
        for part, end in enumerate((length_s / 3, 2 * length_s / 3, None))
    ]
    assert [search.judgement.trials for search in thirds] == [6, 6, 6], "the same two settings on three parts"
    assert [len(search.searches.others) for search in thirds] == [5, 5, 5], "each third is another try"
    assert (done.judgement.trials, forward.judgement.trials) == (6, 4)
    assert "4 with the others tried on this market" in forward.assessment
    assert len(forward.searches.frame) == 5
