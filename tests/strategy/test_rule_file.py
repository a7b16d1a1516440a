"""A rule file trades in session, backtest and replay as it was when the run began, and says what is wrong with it."""

from __future__ import annotations

import json
import os
import py_compile
import shutil
import signal
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import nbformat
import papermill
import pytest
from support.builders import an_instrument
from support.sessions import ROOT, check_run, run_notebook
from test_outliving import check_sealed, engine, wait_until

from voltrade import journal
from voltrade.__main__ import main
from voltrade.compiled import source_key
from voltrade.config import Config, SignalSettings
from voltrade.core import TradingCore
from voltrade.engine.engine import Engine
from voltrade.errors import ConfigError, SessionError
from voltrade.notebook import session
from voltrade.notebook.papermill_engine import Refused, check_parameters, resume
from voltrade.notebook.review import Review
from voltrade.notebook.review_page import review_page
from voltrade.report import charts, summary
from voltrade.runs import run_file
from voltrade.runs.replay import recover, replay
from voltrade.signal_engine import UncompiledRuleWarning
from voltrade.strategy.rule_file import RuleFile, keep_rule, load_rule, read_parameters
from voltrade.venue import command

LEVELS = "LEAST = 20.0\n"

SETTINGS: dict[str, Any] = {
    **{"seed": 7, "hours": 4.0, "threshold": 15, "cooldown_bars": 1, "take_profit_atr": 2.0},
    **{"ema_fast": 5, "ema_slow": 13, "rsi_length": 7, "atr_length": 7, "adx_length": 7},
}


@pytest.fixture(scope="module")
def originals(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the rule of the README, which takes a default from a neighbour."""
    return write_rule(tmp_path_factory.mktemp("rules"))


@pytest.fixture
def rules(tmp_path: Path) -> Path:
    """The same, to be edited."""
    (tmp_path / "rules").mkdir()
    return write_rule(tmp_path / "rules")


def write_rule(folder: Path) -> Path:
    text = (ROOT / "rules/adx.py").read_text()
    text = text.replace("import math\n", "import math\n\nfrom levels import LEAST\n", 1)
    (folder / "adx.py").write_text(edited(text, "adx_least: float = 25.0", "adx_least: float = LEAST"))
    (folder / "levels.py").write_text(LEVELS)
    return folder


def edited(text: str, old: str, new: str) -> str:
    assert text.count(old) == 1
    return text.replace(old, new)


def edit(file: Path, old: str, new: str) -> None:
    file.write_text(edited(file.read_text(), old, new))


def start_of(run: Path) -> dict[str, Any]:
    start: dict[str, Any] = next(journal.read(run / "journal.db")).fact
    return start


# --- a session -------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def traded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a session that papermill ran with a rule file, whose original was edited and deleted since."""
    folder = tmp_path_factory.mktemp("traded")
    rules = folder / "rules"
    rules.mkdir()
    write_rule(rules)
    run_notebook(folder / "adx.ipynb", rule=f"{rules}/adx.py:Adx", **SETTINGS)
    (rules / "adx.py").write_text("nothing that could be run")
    (rules / "levels.py").unlink()
    return folder / "adx"


@pytest.fixture
def run(traded: Path, tmp_path: Path) -> Path:
    """A copy of that run, to be tampered with."""
    shutil.copytree(traded, tmp_path / "adx", ignore=shutil.ignore_patterns("*.sock"))
    return tmp_path / "adx"


def test_session_backtest_and_replay_trade_it_whatever_becomes_of_the_file(traded: Path) -> None:
    check_run(traded)
    assert "makes the same" in Review(session.open_run(traded)).agreement
    assert {path.name for path in (traded / "rule").iterdir()} == {"adx.py", "levels.py"}
    start = start_of(traded)
    assert len(start["rule_sha256"]) == 64
    assert start["config"]["signals"]["adx_length"] == 7
    assert start["config"]["signals"]["adx_least"] == 20.0  # the neighbour's


def test_its_settings_are_parameters_and_its_decisions_are_shown(traded: Path) -> None:
    opened = session.open_run(traded)
    assert opened.config.parameters()["adx_length"] == 7
    assert opened.config.signals.model_dump()["adx_least"] == 20.0
    decisions = opened.frames().decisions
    signals = decisions[decisions["signal"] != ""]
    assert len(signals) > 5
    assert signals["trending"].all()
    assert (signals["adx"] >= 20).all()
    assert not decisions["trending"].all()
    figure = charts.price_chart(opened.frames(), opened.config)
    (adx,) = (trace for trace in figure.data if trace.name == "adx")
    assert list(adx.y)[-5:] == decisions["adx"].to_list()[-5:]
    (bars,) = (trace for trace in figure.data if trace.name == "bars")
    assert "trending yes" in bars.hovertext[signals["bar"].iloc[0]]
    assert "adx %{customdata[4]" in bars.hovertemplate
    assert bars.customdata[-1][4] == decisions["adx"].iloc[-1]
    table = summary.settings_table(opened.config)
    assert "adx_length 7 (default 14)" in table.loc["signals", "not the default"]
    notebook = traded.with_suffix(".ipynb").read_text()
    assert "adx_length 7 (default 14)" in notebook.replace("<wbr>", "")
    assert '"name":"adx"' in notebook.replace(" ", "")


@pytest.mark.parametrize("place", ["adx.py", "levels.py"])
def test_a_copy_that_was_altered_is_refused(run: Path, place: str, capsys: pytest.CaptureFixture[str]) -> None:
    with (run / "rule" / place).open("a") as file:
        file.write("\nraise SystemExit('the altered copy was run')\n")
    for refused in (replay, recover):
        with pytest.raises(ConfigError, match=r"rule: .*must be the one that the run was begun with"):
            refused(run / "journal.db")
    assert main(["replay", str(run)]) == 2
    assert "replay: rule: " in capsys.readouterr().err
    assert main(["verify", str(run)]) == 1
    assert "!!  rule        rule: " in capsys.readouterr().out
    with pytest.raises(ConfigError, match="must be the one"):
        assert session.open_run(run).config
    looked = Review(session.open_run(run))
    assert looked.config.signals.ema_fast == 5  # all but the rule's own settings
    assert looked.backtest.frames is None
    assert "must be the one that the run was begun with" in review_page(looked)
    checks = session.open_run(run).checks()
    assert checks["ok"].astype(object).where(checks["ok"].notna(), None).to_dict() == {
        **{"end": True, "rows": True, "head": True, "parameters": True, "rule": False, "notebook": None},
        "replay": False,
    }


def test_a_record_that_was_altered_with_the_copy_is_refused(run: Path) -> None:
    """The journal's word counts, not that of the file that anyone can edit."""
    edit(run / "rule/levels.py", "20.0", "30.0")
    facts = json.loads((run / "run.json").read_text())
    name = f"{run}/rule/adx.py:Adx"
    (run / "run.json").write_text(json.dumps(facts | {"rule_sha256": RuleFile.named(name).sha256, "state": "running"}))
    engine, wiring = Engine(run), cast(Any, SimpleNamespace(channel="of lockstep"))
    engine._identify()
    with pytest.raises(ConfigError, match="must be the one that the run was begun with"):
        engine._recover(wiring)


def test_a_copy_that_is_gone_is_missed(run: Path) -> None:
    (run / "rule/adx.py").unlink()
    with pytest.raises(ConfigError, match=r"rule: .*adx\.py must be a file, is none in .*/adx/rule$"):
        replay(run / "journal.db")


def test_nothing_compiled_beside_the_copy_is_run(run: Path, tmp_path: Path) -> None:
    """Python would run a compiled file with the source's time and length, whatever it says."""
    source = run / "rule/levels.py"
    evil = tmp_path / "evil.py"
    evil.write_text("LEAST = 99.9")
    (run / "rule/__pycache__").mkdir()
    compiled = Path(py_compile.compile(str(evil), doraise=True))
    stamp, body = compiled.read_bytes()[:16], compiled.read_bytes()[16:]
    status = source.stat()
    stamp = stamp[:8] + int(status.st_mtime).to_bytes(4, "little") + status.st_size.to_bytes(4, "little")
    (run / f"rule/__pycache__/{compiled.name.replace('evil', 'levels')}").write_bytes(stamp + body)
    assert load_rule(f"{run}/rule/adx.py:Adx").settings_type().model_dump()["adx_least"] == 20.0


def test_an_engine_that_is_killed_goes_on_with_its_copy(rules: Path, tmp_path: Path) -> None:
    run = tmp_path / "killed"
    run.mkdir(mode=0o700)
    config = read_parameters(SETTINGS, rule=f"{rules}/adx.py:Adx")
    facts = {"parameters": config.parameters(), "epoch": "k", "state": "starting", **keep_rule(config, run)}
    run_file.write(run, facts)
    process = engine(run)
    wait_until(lambda: b"OrderIntent" in kinds_of(run), process)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait(20)
    shutil.rmtree(rules)
    process = engine(run)
    assert process.wait(100) == 0, (run / "engine.log").read_text()[-2000:]
    check_sealed(run)
    assert b"EngineRestarted" in kinds_of(run)


def kinds_of(run: Path) -> set[bytes]:
    if not run_file.read(run).get("begun"):
        return set()
    return {row.kind.encode() for row in journal.read(run / "journal.db")}


# --- going on with a run ---------------------------------------------------------------------------------------------


@pytest.fixture
def cut_short(rules: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The output of a run with a rule file whose engine was killed."""
    monkeypatch.chdir(tmp_path)
    run = tmp_path / "runs/today"
    run.mkdir(parents=True)
    config = read_parameters(rule="rules/adx.py:Adx")
    facts = {"parameters": config.parameters(), "epoch": "c", "state": "running", "begun": True}
    run_file.write(run, facts | keep_rule(config, run))
    (run / "journal.db").touch()
    return run


def a_notebook(**parameters: Any) -> Any:
    return nbformat.v4.new_notebook(metadata={"papermill": {"parameters": parameters}})


def test_a_run_is_gone_on_with_though_its_rule_file_is_gone(cut_short: Path, rules: Path) -> None:
    shutil.rmtree(rules)
    nb = a_notebook(rule="rules/adx.py:Adx")
    with pytest.raises(Refused, match=r"rules/adx\.py must be a file, is none in .* or above"):
        check_parameters(nb)
    config = check_parameters(nb, cut_short)
    assert resume(nb, cut_short.with_suffix(".ipynb"), config)


def test_a_run_is_not_gone_on_with_after_its_rule_was_edited(cut_short: Path, rules: Path) -> None:
    edit(rules / "adx.py", ">= settings.adx_least", "> settings.adx_least")
    nb = a_notebook(rule="rules/adx.py:Adx")
    config = check_parameters(nb, cut_short)
    with pytest.raises(Refused, match=r"^rule: rules/adx\.py:Adx must be .*, was edited"):
        resume(nb, cut_short.with_suffix(".ipynb"), config)
    with pytest.raises(SessionError, match="was edited"):
        session.start(config, cut_short)


# --- what is wrong with a file ---------------------------------------------------------------------------------------

PLAIN = """
from voltrade.config import SignalSettings
from voltrade.signal_engine import SignalEngine
{head}
class Settings(SignalSettings):
    {setting}

class Rule(SignalEngine):
    settings_type = Settings
    conditions = {{}}

    @staticmethod
    def _detect_signal(state, bar, settings, decision):
        return 0
"""


@pytest.mark.parametrize(
    ("head", "setting", "given", "wrong"),
    [
        ("def (:", "level: float = 1.0", {}, r"my_rule\.py must be Python: invalid syntax \(my_rule\.py, line 4\)"),
        ("import broken", "level: float = 1.0", {}, r"must be Python: .*\(broken\.py, line 1\)"),
        ("import gone", "level: float = 1.0", {}, "can't be run: ModuleNotFoundError: No module named 'gone'"),
        ("raise SystemExit(3)", "level: float = 1.0", {}, "can't be run: SystemExit: 3"),
        ("1 / 0", "level: float = 1.0", {}, "can't be run: ZeroDivisionError"),
        ("", "seed: int = 1", {}, "seed: must be unique, is in session and signals"),
        ("", "stop_atr: float = 1.0", {}, "stop_atr: must be unique, is in signals and exits"),
        ("", "word: str = 'x'", {}, "word: a setting of a rule must be a number or a boolean, was 'x'"),
        ("", "api_key: int = 1", {}, "api_key: keys must come from the environment"),
        ("", "level: float = 1.0", {"level": "high"}, "level: .*valid number, was 'high'"),
        ("", "level: float = 1.0", {"lebel": 2.0}, "lebel: unknown parameter, was 2.0"),
        ("", "level: float = 1.0", {"level": float("inf")}, "level: must be a finite number"),
        ("", "level: float = 1.0", {"secret_level": 1}, "secret_level: keys must come from the environment"),
        ("import afar", "level: float = 1.0", {}, r"may import installed packages and files beside it, imports .*afar"),
        ("", "level: float = 1.0", {"rule": "my_rule.py:Missing"}, "'Missing' must be a SignalEngine of my_rule.py"),
        ("", "level: float = 1.0", {"rule": "my_rule.py:Settings"}, "'Settings' must be a SignalEngine"),
        ("", "level: float = 1.0", {"rule": "my_rule.py"}, "must be the path of a Python file, a colon and a class"),
        ("", "level: float = 1.0", {"rule": "other.py:Rule"}, r"other\.py must be a file"),
        ("", "level: float = 1.0", {"rule": 7}, "must be the path of a Python file, a colon and a class name, was 7"),
    ],
)
def test_what_is_wrong_is_named_before_anything_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, head: str, setting: str, given: dict[str, Any], wrong: str
) -> None:
    (tmp_path / "afar").mkdir()
    (tmp_path / "afar/afar.py").write_text("")
    monkeypatch.syspath_prepend(str(tmp_path / "afar"))
    here = tmp_path / "here"
    here.mkdir()
    monkeypatch.chdir(here)
    (here / "my_rule.py").write_text(PLAIN.format(head=head, setting=setting))
    (here / "broken.py").write_text("def\n")
    before = set(here.rglob("*"))
    with pytest.raises(Refused, match=wrong):
        check_parameters(a_notebook(**{"rule": "my_rule.py:Rule", **given}))
    with pytest.raises(ConfigError, match=wrong):
        session.parameters({"rule": "my_rule.py:Rule", **given})
    assert set(here.rglob("*")) == before


@pytest.mark.parametrize("length", [0, -5])
def test_an_adx_over_no_bars_is_refused(length: int) -> None:
    with pytest.raises(ConfigError, match=f"adx_length: .*{length}"):
        read_parameters(rule=str(ROOT / "rules/adx.py:Adx"), adx_length=length)


def test_the_settings_of_a_rule_are_unknown_without_it() -> None:
    with pytest.raises(ConfigError, match="adx_length: unknown parameter, was 5"):
        read_parameters(adx_length=5)


def test_papermill_shows_what_is_wrong_and_writes_nothing(rules: Path, tmp_path: Path) -> None:
    edit(rules / "adx.py", "class Adx(", "class Adx((")
    given = {"rule": f"{rules}/adx.py:Adx"}
    with pytest.raises(Refused, match=r"^rule: adx\.py must be Python"):
        papermill.execute_notebook(
            ROOT / "notebooks/live.ipynb", tmp_path / "runs/wrong.ipynb", given, progress_bar=False
        )
    assert not (tmp_path / "runs").exists()


def test_a_rule_that_cannot_be_compiled_is_warned_about_by_name(tmp_path: Path) -> None:
    text = PLAIN.format(head="", setting="level: float = 1.0").replace("return 0", "return {str: 0}[str]")
    (tmp_path / "slow.py").write_text(text)
    with pytest.warns(UncompiledRuleWarning, match="Rule runs uncompiled, many times slower"):
        read_parameters(rule=f"{tmp_path}/slow.py:Rule")


def test_a_core_is_never_made_without_the_rule_that_its_settings_name() -> None:
    config = Config.from_parameters(rule="rules/adx.py:Adx")
    with pytest.raises(ConfigError, match="must be given with it"):
        TradingCore(config, an_instrument(), "e")


# --- files, neighbours, settings -------------------------------------------------------------------------------------


def test_the_settings_of_a_rule_come_back_as_they_were(originals: Path) -> None:
    config = read_parameters(rule=f"{originals}/adx.py:Adx", adx_length=5, seed=3)
    kind = type(config.signals)
    assert kind is not SignalSettings
    assert Config.from_json(config.model_dump_json(), kind) == config
    assert Config.from_parameters(json.loads(json.dumps(config.parameters())), signals=kind) == config
    assert config.fingerprint != read_parameters(rule=f"{originals}/adx.py:Adx", adx_length=6, seed=3).fingerprint
    with pytest.raises(ConfigError, match="adx_length"):
        Config.from_json(config.model_dump_json())


def test_a_rule_is_looked_for_here_and_above(originals: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "notebooks/deep").mkdir(parents=True)
    shutil.copytree(originals, tmp_path / "rules")
    monkeypatch.chdir(tmp_path / "notebooks/deep")
    assert RuleFile.named("rules/adx.py:Adx").path == tmp_path / "rules/adx.py"


def test_a_file_is_run_again_only_after_an_edit(rules: Path) -> None:
    name = f"{rules}/adx.py:Adx"
    rule = load_rule(name)
    assert load_rule(name) is rule
    edit(rules / "levels.py", "20.0", "30.0")  # as long as before, and within a second
    assert load_rule(name).settings_type().model_dump()["adx_least"] == 30.0
    assert rule.settings_type().model_dump()["adx_least"] == 20.0


def test_rules_with_neighbours_of_one_name_do_not_mix(rules: Path, tmp_path: Path) -> None:
    others = tmp_path / "others"
    shutil.copytree(rules, others)
    edit(others / "levels.py", "20.0", "40.0")
    ours, theirs = (load_rule(f"{folder}/adx.py:Adx") for folder in (rules, others))
    assert [rule.settings_type().model_dump()["adx_least"] for rule in (ours, theirs)] == [20.0, 40.0]
    assert source_key(rules / "adx.py") != source_key(others / "adx.py")
    # Compiled code goes by what sources say, not by where they stand: a run's copy compiles nothing anew.
    (others / "levels.py").write_text(LEVELS)
    assert source_key(rules / "adx.py") == source_key(others / "adx.py")


PACKAGED = """
from bands import UPPER
from bands.lower import LOWER
from voltrade.signal_engine import SignalEngine

class Rule(SignalEngine):
    @staticmethod
    def _detect_signal(state, bar, settings, decision):
        return LOWER + UPPER
"""


def test_packages_beside_a_rule_are_kept_with_it(tmp_path: Path) -> None:
    package = tmp_path / "bands"
    package.mkdir()
    (tmp_path / "rule.py").write_text(PACKAGED)
    (package / "__init__.py").write_text("from .upper import UPPER\n")
    (package / "upper.py").write_text("UPPER = 1\n")
    (package / "lower.py").write_text("from . import upper\n\nLOWER = -1 - upper.UPPER\n")
    (package / "unused.py").write_text("1 / 0\n")
    rule = load_rule(f"{tmp_path}/rule.py:Rule")
    assert set(RuleFile.named(f"{tmp_path}/rule.py:Rule").sources) == {
        "rule.py", "bands/__init__.py", "bands/upper.py", "bands/lower.py"
    }  # fmt: skip
    assert rule._detect_signal(None, None, None, None) == -1


def test_the_venue_takes_the_parameters_of_a_session_with_a_rule(originals: Path, tmp_path: Path) -> None:
    file = tmp_path / "parameters.json"
    file.write_text(json.dumps(read_parameters(rule=f"{originals}/adx.py:Adx", seed=5).parameters()))
    given = command._parser().parse_args(["--log", str(tmp_path), "--parameters", str(file), "--hours", "2"])
    config = command._config(given)
    assert (config.session.seed, config.session.hours) == (5, 2.0)
