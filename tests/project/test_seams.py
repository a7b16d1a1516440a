"""What README, the Thai guide and the design send a reader to is what trades: an edit there changes every mode.

Each test edits one seam in a copy of the package, or overrides it where the documents say to, and asks every mode for
what it makes of one tape now. An edit that a mode doesn't notice is a seam that leads nowhere.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from support.forks import Forks
from support.seam_modes import PARAMETERS, RAISED, entries, write_tape

from voltrade.config import Config
from voltrade.report.run_reader import read_run
from voltrade.strategy.rule_file import keep_rule

ROOT = Path(__file__).resolve().parents[2]
TRADING = ("core", "backtest", "sweep", "explorer", "replay")
RULES = (*TRADING, "check")


class Edit(NamedTuple):
    """A piece of a file of the package, which stands there once, and what it becomes."""

    file: str
    old: str
    new: str


class UnnoticedError(AssertionError):
    """An edit that some mode does not notice."""


class Before(NamedTuple):
    """What a session and every mode make of the package as it is, and the process that runs edited ones."""

    forks: Forks
    tape: Path
    journal: Path
    session: list[str]
    made: dict[str, Any]


def made_by(forks: Forks, package: Path, tape: Path, journal: Path, *modes: str, rule: str = "") -> dict[str, Any]:
    said = forks.run(package, str(ROOT / "tests/support/seam_modes.py"), str(journal), rule, str(tape), *modes)
    made: dict[str, Any] = json.loads(said.splitlines()[-1])
    return made


def session(forks: Forks, package: Path, tape: Path, run: Path, rule: str = "") -> tuple[Path, list[str]]:
    """Trade a session over the wire; return its journal, and what it decided."""
    run.mkdir(mode=0o700)
    begun = {"parameters": {**PARAMETERS, "tape": str(tape), "rule": rule}, "epoch": "bt", "state": "starting"}
    kept = keep_rule(Config.from_parameters(rule=rule), run)
    (run / "run.json").write_text(json.dumps({**begun, **kept}))
    forks.run(package, str(ROOT / "tests/support/seam_session.py"), str(run))
    path = run / "journal.db"
    return path, entries(str(path))


def edited(folder: Path, *edits: Edit) -> Path:
    """Return a copy of the package with these edits.

    Raises:
        LookupError: a piece isn't there any more: the seam has moved, and so must the test.
    """
    half_written = shutil.ignore_patterns("*.pyc.*")  # by another process
    shutil.copytree(ROOT / "voltrade", folder / "voltrade", ignore=half_written)
    for edit in edits:
        file = folder / "voltrade" / edit.file
        text = file.read_text()
        if text.count(edit.old) != 1:
            raise LookupError(f"{edit.file} must hold once what is edited, holds {text.count(edit.old)}: {edit.old}")
        file.write_text(text.replace(edit.old, edit.new))
        for known in (file.parent / "__pycache__").glob(f"{file.stem}.*"):
            known.unlink()
    return folder


@pytest.fixture(scope="module")
def before(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Before]:
    folder = tmp_path_factory.mktemp("seams")
    tape = folder / "BTCUSDT-aggTrades.csv"
    write_tape(tape)
    forks = Forks(folder)
    try:
        path, decided = session(forks, ROOT, tape, folder / "before")
        yield Before(forks, tape, path, decided, made_by(forks, ROOT, tape, path, *RULES))
    finally:
        forks.close()


def refuse_unnoticed(package: Path, before: Before, *modes: str) -> dict[str, Any]:
    """Return what the modes make of an edited package, if all make something else of it, and the same.

    Raises:
        UnnoticedError: a mode makes of it what it made before.
    """
    made = made_by(before.forks, package, before.tape, before.journal, *modes)
    unchanged = [mode for mode in modes if made[mode] == before.made[mode]]
    if unchanged:
        raise UnnoticedError(f"the edit changes nothing in {', '.join(unchanged)}")
    assert made["core"] == made["backtest"]
    return made


def test_unedited_all_modes_agree(before: Before) -> None:
    assert before.session == before.made["core"] == before.made["backtest"]
    assert before.made["replay"] == 0
    reasons = {"STOP", "TAKE_PROFIT", "TIME", "OPPOSITE_SIGNAL"}
    assert {reason for reason in reasons if f"exit_reason='{reason}'" in " ".join(before.session)} == reasons


def test_a_stop_that_fills_beside_an_exit_is_nobody_elses(before: Before) -> None:
    """The exit is refused with -2022, and the account tells of the stop's fill before the stream does."""
    run = read_run(before.journal.parent)
    assert -2022 in run.orders["code"].to_list()
    assert "FOREIGN" not in {*run.orders["purpose"], *run.fills["purpose"]}
    assert run.fills["quantity"].sum() == pytest.approx(run.orders["filled"].sum())
    assert not [alert for alert in run.alerts["text"] if "wallet differs" in alert]


# --- bars and signals -------------------------------------------------------------------------------------------------

BARS, INDICATORS, SIGNALS = "bars.py", "indicators.py", "signal_engine.py"
OF_RULES = {
    "VolumeBarAggregator": Edit(
        BARS,
        "        self.spec = bar_spec(settings, instrument)\n",
        '        self.spec = bar_spec(settings, instrument)\n        self.spec["threshold"] *= 2\n',
    ),
    "VolumeBarAggregator.process": Edit(
        BARS,
        "        self.next_row = at\n",
        '        self.next_row = at\n        self._buffer["close"] -= self._buffer["close"] % 400\n',
    ),
    "on_volume_bar": Edit(
        SIGNALS,
        "            decision.signal = 1 if signal == 1 else -1 if signal == -1 else 0 if signal == 0 "
        "else RETURNED_NONSENSE\n",
        "            decision.signal = 1 if signal == 1 else 0\n",
    ),
    "_detect_signal": Edit(SIGNALS, "            return 1\n", "            return 0\n"),
    "indicators": Edit(
        INDICATORS, "    return before + alpha * (value - before)\n", "    return before + alpha * 0.5 * value\n"
    ),
}


@pytest.mark.parametrize("seam", OF_RULES)
def test_bars_and_signals_change_in_every_mode(seam: str, before: Before, tmp_path: Path) -> None:
    refuse_unnoticed(edited(tmp_path, OF_RULES[seam]), before, *RULES)


RULE = """
from voltrade.signal_engine import SignalEngine


class LongOnly(SignalEngine):
    def on_volume_bar(self, bar):
        signal = super().on_volume_bar(bar)
        return signal if signal and signal.side > 0 else None
"""


def test_a_rule_file_that_overrides_on_volume_bar_trades_in_every_mode(before: Before, tmp_path: Path) -> None:
    (tmp_path / "long_only.py").write_text(RULE)
    rule = f"{tmp_path / 'long_only.py'}:LongOnly"
    path, decided = session(before.forks, ROOT, before.tape, tmp_path / "run", rule=rule)
    made = made_by(before.forks, ROOT, before.tape, path, *RULES, rule=rule)
    assert made["replay"] == 0
    assert decided == made["core"] == made["backtest"]
    assert all(made[mode] != before.made[mode] for mode in ("core", "sweep", "explorer", "check"))
    refusals = [line for line in decided if line.startswith("Refusal")]
    assert refusals
    assert all("side=<Side.BUY: 1>" in line for line in refusals)


RAISING = {
    "VolumeBarAggregator": Edit(
        BARS, "        self.next_row = at\n", f"        self.next_row = at\n        raise RuntimeError({RAISED!r})\n"
    ),
    "on_volume_bar": Edit(
        SIGNALS, "        state.bars += 1\n", f"        state.bars += 1\n        raise RuntimeError({RAISED!r})\n"
    ),
}


@pytest.mark.parametrize("seam", RAISING)
def test_what_raises_raises_in_every_mode(seam: str, before: Before, tmp_path: Path) -> None:
    package = edited(tmp_path, RAISING[seam])
    made = made_by(before.forks, package, before.tape, before.journal, *RULES)
    differences = made.pop("replay")
    assert made == dict.fromkeys([mode for mode in RULES if mode != "replay"], RAISED)
    assert differences > 0, "a session goes on without its rule, and so does its replay"


# --- risk -------------------------------------------------------------------------------------------------------------

RISK, CORE = "risk.py", "core.py"
ORDERS, POSITION, TIMERS = "orders/order_rules.py", "orders/position_rules.py", "orders/position_timers.py"
STATES, STEPS = "orders/order_states.py", "orders/core_rules.py"
OF_TRADING: dict[str, tuple[Edit, ...]] = {
    "GATES": (Edit(CORE, "    risk.COOLDOWN,\n", ""),),
    "a gate's rule": (Edit(RISK, "bars_since_exit <= cooldown_bars", "bars_since_exit <= cooldown_bars + 3"),),
    "a gate of one's own": (
        Edit(
            RISK,
            "WARMING_UP = Gate(",
            "@compiled\ndef odd_price(inputs: Rows, limits: Rows) -> bool:\n"
            '    return bool(inputs[0]["price"] % 2)\n\n\n'
            'ODD_PRICE = Gate("ODD_PRICE", odd_price, "the price is odd")\nWARMING_UP = Gate(',
        ),
        Edit(CORE, "    risk.IN_POSITION,\n", "    risk.ODD_PRICE,\n    risk.IN_POSITION,\n"),
    ),
    "CircuitBreaker's limits": (
        Edit(RISK, '    return int(setting["limit"])\n', '    return int(setting["limit"] - 9)\n'),
    ),
    "CircuitBreaker's measures": (
        Edit(RISK, '    return int(now["round_trips_today"])\n', '    return int(now["round_trips_today"] + 9)\n'),
    ),
    "position_size": (Edit(RISK, "        return 0\n    return lots\n", "        return 0\n    return lots // 2\n"),),
    "stop_out_cost": (Edit(RISK, "    return int(stop) + mul_e8_ceil(", "    return 2 * int(stop) + mul_e8_ceil("),),
    "stop_distance": (Edit(RISK, "    return math.ceil(ticks - 1e-6)\n", "    return math.ceil(ticks * 1.5)\n"),),
    "REFUSALS": (Edit(STATES, '(Reaction.CLOSE, "the price has', '(Reaction.RETRY, "the price has'),),
    "ALGO_MOVES": (Edit(STATES, "(_ALGO_KNOWN - {_A.NEW}) | {_A.PENDING_CANCEL, _A.GONE}", "_ALGO_KNOWN - {_A.NEW}"),),
}


@pytest.mark.parametrize("seam", OF_TRADING)
def test_risk_and_orders_change_in_every_mode(seam: str, before: Before, tmp_path: Path) -> None:
    refuse_unnoticed(edited(tmp_path, *OF_TRADING[seam]), before, *TRADING)


def test_the_order_of_the_gates_changes_in_every_mode(before: Before, tmp_path: Path) -> None:
    package = edited(
        tmp_path,
        Edit(CORE, "    risk.TRADES_PER_DAY,\n", ""),
        Edit(CORE, "    risk.NOT_LAST_BAR,\n", "    risk.TRADES_PER_DAY,\n    risk.NOT_LAST_BAR,\n"),
    )
    # A sweep counts refusals and doesn't name them.
    refuse_unnoticed(package, before, "core", "backtest", "explorer", "replay")


# --- the upkeep of a position -----------------------------------------------------------------------------------------

UPKEEP: dict[str, tuple[Edit, ...]] = {
    "core_rules.on_signal": (
        Edit(
            STEPS,
            "symbol.position.side != signal.side and symbol.settings.exit_on_opposite_signal:",
            "symbol.position.side != signal.side and symbol.settings.exit_on_opposite_signal and signal.bar < 0:",
        ),
    ),
    "core_rules.fill_gate_inputs": (
        Edit(
            STEPS,
            '    given["bars_since_exit"] = signal.bar + 1 - symbol',
            '    given["bars_since_exit"] = signal.bar - 2 - symbol',
        ),
    ),
    "order_rules.enter": (
        Edit(
            ORDERS,
            "new_order(symbol, account.now, states.ENTRY, signal.side, quantity, states.SIGNALLED)",
            "new_order(symbol, account.now, states.ENTRY, signal.side, quantity // 2, states.SIGNALLED)",
        ),
    ),
    "order_rules.start_closing": (
        Edit(
            ORDERS,
            "    if position.closing_reason == states.NONE:\n        position.closing_reason = reason\n",
            "    if position.closing_reason == states.NONE and reason != states.OPPOSITE_SIGNAL:\n"
            "        position.closing_reason = reason\n",
        ),
    ),
    "position_rules.sync_orders": (
        Edit(POSITION, "        _sync_take_profit(account, symbol, time, lots)\n", "        return\n"),
    ),
    "order_rules._on_refused": (
        Edit(
            ORDERS,
            "    is_again = reaction in (states.RETRY, states.RECONCILE, states.FILTERS) and",
            "    is_again = reaction in (states.RETRY, states.RECONCILE, states.FILTERS, states.CLOSE) and",
        ),
    ),
    "position_timers.on_time": (
        Edit(
            TIMERS,
            "int(symbol.position.opened_at + symbol.settings.max_holding_ms)",
            "int(symbol.position.opened_at + symbol.settings.max_holding_ms // 3)",
        ),
    ),
}
"""Rules of the upkeep of a position, which live and research share."""


@pytest.mark.parametrize("seam", UPKEEP)
def test_the_upkeep_of_a_position_changes_in_every_mode(seam: str, before: Before, tmp_path: Path) -> None:
    refuse_unnoticed(edited(tmp_path, *UPKEEP[seam]), before, *TRADING)


# --- the exchange -----------------------------------------------------------------------------------------------------


def test_how_the_simulated_exchange_fills_changes_wherever_it_fills(before: Before, tmp_path: Path) -> None:
    edit = Edit(
        "simulated/fill_model.py",
        "    return max(1, price + side * slip)\n",
        "    return max(1, price + side * (slip + 9))\n",
    )
    refuse_unnoticed(edited(tmp_path, edit), before, "core", "backtest", "sweep", "explorer")


OF_SESSIONS = {
    "LiveTradingSystem._on_agg_trade": Edit(
        "live.py",
        "        self._inbox.add_trade((trade_id, price, quantity, time, buyer_is_maker))\n",
        "        self._inbox.add_trade((trade_id, price, 2 * quantity, time, buyer_is_maker))\n",
    ),
    "BinanceWSManager": Edit(
        "exchange/trade_sequence.py",
        "        self._on_agg_trade = on_agg_trade\n",
        "        self._on_agg_trade = lambda at, price, lots, *rest: on_agg_trade(at, price, 2 * lots, *rest)\n",
    ),
    "BinanceRestClient.submit": Edit(
        "exchange/rest.py",
        "        order = intent.order\n        algo =",
        "        from dataclasses import replace\n\n"
        "        order = replace(intent.order, quantity=intent.order.quantity // 2)\n        algo =",
    ),
}


@pytest.mark.parametrize("seam", OF_SESSIONS)
def test_what_only_sessions_have_changes_sessions(seam: str, before: Before, tmp_path: Path) -> None:
    _, decided = session(before.forks, edited(tmp_path, OF_SESSIONS[seam]), before.tape, tmp_path / "run")
    assert decided != before.session
    assert len(decided) > 10
