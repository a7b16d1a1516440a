"""A core that is restored from a checkpoint is the core that wrote it, and goes on as it would have."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from simulation.plans import RULE
from simulation.scenario import at, scenario, workplace
from voltrade import journal
from voltrade.core import TradingCore
from voltrade.journal import checkpoint
from voltrade.journal.checkpoint import CHECKPOINT, Checkpoints, state_of
from voltrade.journal.rows import Row, encode_json
from voltrade.model import Trades
from voltrade.orders.records import SYMBOL
from voltrade.orders.snapshot_check import SnapshotCheck
from voltrade.runs import replay as module
from voltrade.runs.replay import Replay, read_start, recover, replay

EVERY = 20


@pytest.fixture(scope="module")
def played(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run of a session with fills, stops, a kill and lost answers; it has a checkpoint each few seconds."""
    faults = at(15, "cut", 4), at(25, "kill"), at(40, "operator", action="pause"), at(48, "operator", action="resume")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(checkpoint, "EVERY_TRADES", EVERY)
        evidence = scenario(*faults, duration_s=90.0, rule=RULE)
    assert evidence.replay == [0]
    return Path(shutil.copytree(workplace() / "runs/run", tmp_path_factory.mktemp("played") / "run"))


@pytest.fixture
def path(played: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Its journal, in a copy of the test's own."""
    monkeypatch.setattr(checkpoint, "EVERY_TRADES", EVERY)
    return Path(shutil.copytree(played, tmp_path / "run")) / "journal.db"


def test_a_recovery_goes_on_from_the_last_checkpoint_as_from_the_beginning(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, short = replay(path), recover(path)
    assert whole.differences == short.differences == 0
    assert 0 < short.events < whole.events / 2
    assert whole.core is not None
    assert short.core is not None
    assert same(whole.core, short.core)
    assert (whole.marks, whole.head) == (short.marks, short.head)
    monkeypatch.setattr(checkpoint, "VERSION", checkpoint.VERSION + 1)  # written by an earlier version
    assert (recover(path).events, recover(path).differences) == (whole.events, 0)


def test_from_each_checkpoint_on_a_core_makes_what_the_journal_has(path: Path) -> None:
    """Also from one in the middle of a position: what a checkpoint lacks would show in a later output or state."""
    rows = list(journal.read(path))
    taken = [row for row in rows if row.kind == CHECKPOINT]
    last = replay(path).core
    assert last is not None
    assert len(taken) >= 5
    assert any(position_in(row) for row in taken)
    for row in taken:
        core = read_start(path).core()
        checkpoints = Checkpoints(core)
        checkpoints.restore(row.fact, [bar.fact for bar in rows[: row.seq] if bar.kind == "Bar"])
        assert encode_json({**state_of(core)}) == encode_json({name: row.fact[name] for name in ("objects", "arrays")})
        went_on = module._replay(core, checkpoints, iter(rows[row.seq :]), lambda: None)
        assert went_on.shown == []
        assert same(core, last)


@pytest.mark.filterwarnings("ignore::voltrade.signal_engine.UncompiledRuleWarning")
def test_a_rule_that_overrides_on_volume_bar_has_checkpoints_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is refused where it keeps more than its state. Without them its engine came back through the whole journal."""
    monkeypatch.setattr(checkpoint, "EVERY_TRADES", EVERY)
    skips = RULE.replace("buys.py:Buys", "skips.py:Skips")
    assert scenario(at(40, "kill"), duration_s=60.0, rule=skips).replay == [0]
    path = workplace() / "runs/run/journal.db"
    whole, short = replay(path), recover(path)
    assert 0 < short.events < whole.events / 2
    assert whole.core is not None
    assert short.core is not None
    assert whole.core.symbol_states["BTCUSDT"].engine.is_overridden
    assert same(whole.core, short.core)


def test_a_replay_compares_each_checkpoint(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    count = sum(row.kind == CHECKPOINT for row in journal.read(path))
    monkeypatch.setattr(checkpoint, "state_of", lambda core: {})
    assert replay(path).differences == count


def position_in(row: Row) -> bool:
    (symbol,) = row.fact["arrays"]["symbols"]
    return bool(symbol[(SYMBOL.names or ()).index("in_round_trip")])


def same(first: TradingCore, second: TradingCore) -> bool:
    """Whether two cores keep the same, with all bars and decisions."""
    states = [json.dumps(state_of(core), sort_keys=True) for core in (first, second)]
    (one,), (other,) = first.symbol_states.values(), second.symbol_states.values()
    bars = one.pipeline.bars.tolist() == other.pipeline.bars.tolist()
    decisions = str(one.pipeline.decisions.tolist()) == str(other.pipeline.decisions.tolist())  # NaN is not NaN
    return states[0] == states[1] and bars and decisions


@pytest.mark.parametrize("is_new", [False, True], ids=["an attribute that is gone", "a new one"])
def test_a_checkpoint_of_code_with_other_attributes_is_left_aside(
    path: Path, is_new: bool, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """One that the row lacks would keep the value of a new core, silently."""
    made, whole = SnapshotCheck.__init__, Replay()

    def changed(check: SnapshotCheck, *given: Any) -> None:
        made(check, *given)
        if is_new:
            vars(check)["news"] = 0
        else:
            vars(check).popitem()

    monkeypatch.setattr(SnapshotCheck, "__init__", changed)
    if is_new:  # all is replayed, and the row says nothing about this code
        assert recover(path).differences == 0
    else:  # what is gone would be missed by a core of today
        monkeypatch.setattr(module, "replay", lambda *given: whole)
        assert recover(path) is whole
    assert "attributes and fields must be those of this code" in caplog.text


def test_a_core_keeps_nothing_that_a_checkpoint_cannot(path: Path) -> None:
    """A new attribute that is no plain value is named in `OMITTED_ATTRIBUTES`, or refused here."""
    core = replay(path).core
    assert core is not None
    core.symbol_states["BTCUSDT"].monitor.news = object()  # type: ignore[attr-defined]
    with pytest.raises(TypeError, match="object"):
        state_of(core)


def test_an_object_of_a_class_that_a_checkpoint_does_not_know_ends_no_session(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    core = replay(path).core
    assert core is not None
    monkeypatch.delitem(checkpoint.OMITTED_ATTRIBUTES, "WalletCheck")
    monkeypatch.setattr("voltrade.journal.checkpoint.EVERY_TRADES", 1)
    assert Checkpoints(core).after(Trades.from_rows("BTCUSDT", [(1, 1_000, 1, 0, False)]), 1) is None


@pytest.mark.parametrize("kept", [object(), [np.zeros(2)]], ids=["an object", "an array in a list"])
def test_what_a_checkpoint_cannot_keep_ends_no_session(
    path: Path, kept: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    core = replay(path).core
    assert core is not None
    core.symbol_states["BTCUSDT"].monitor.news = kept  # type: ignore[attr-defined]
    checkpoints = Checkpoints(core)
    monkeypatch.setattr("voltrade.journal.checkpoint.EVERY_TRADES", 1)
    trade = Trades.from_rows("BTCUSDT", [(1, 1_000, 1, 0, False)])
    assert checkpoints.after(trade, 1) is None
    del core.symbol_states["BTCUSDT"].monitor.news  # type: ignore[attr-defined]
    assert checkpoints.after(trade, 1) is None, "later ones would not be compared with those that are missing"
