"""Parameters that were saved are taken as they are, or not at all."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import nbformat
import pytest
import yaml
from hypothesis import given as given_some
from hypothesis import strategies as st

from voltrade.config import Config
from voltrade.errors import ConfigError
from voltrade.notebook import session
from voltrade.notebook.papermill_engine import Refused, check_parameters
from voltrade.strategy import parameter_file
from voltrade.strategy.rule_file import RuleFile, read_parameters

ROOT = Path(__file__).resolve().parents[2]
CHOSEN = {
    "symbol": "LTCUSDT",
    "threshold": 250,
    "unit": "base",
    "ema_fast": 5,
    "stop_atr": 2.5,
    "max_trades_per_day": 9,
}


@pytest.fixture
def mine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file of parameters in a folder above the current one."""
    (tmp_path / "notebooks").mkdir()
    monkeypatch.chdir(tmp_path / "notebooks")
    path = tmp_path / "parameters" / "mine.json"
    parameter_file.write(path, Config.from_parameters(CHOSEN, seed=3, hours=2.0))
    return path


NAME = "parameters/mine.json"


def test_a_file_holds_every_parameter_but_the_sessions(mine: Path) -> None:
    content = json.loads(mine.read_text())
    assert content | CHOSEN == content
    assert not {"mode", "seed", "hours", "tape", "venue", "duration_s", "confirmation"} & set(content)
    assert len(content["parameters_sha256"]) == 64
    config = read_parameters(parameters_file=NAME, mode="sim", seed=11)
    assert config == Config.from_parameters(CHOSEN, seed=11)


def test_small_numbers_stay_numbers_where_papermill_reads_the_file_as_yaml(mine: Path) -> None:
    config = Config.from_parameters(CHOSEN, taker_fee=2e-05, maker_fee=1e-06, slippage_bps=1.5e-05)
    parameter_file.write(mine, config)
    assert yaml.safe_load(mine.read_text()) == json.loads(mine.read_text())
    assert read_parameters(yaml.safe_load(mine.read_text())) == config


def test_papermill_can_give_the_file_itself(mine: Path) -> None:
    """As `papermill -f` does: what stands in it, beside the notebook's defaults."""
    given = json.loads(mine.read_text())
    assert read_parameters({**given, "seed": 11, "parameters_file": ""}) == Config.from_parameters(CHOSEN, seed=11)
    with pytest.raises(ConfigError, match=r"parameters_sha256: must be as it was saved, .*one of its parameters"):
        read_parameters({**given, "stop_atr": 3.0})


@pytest.mark.parametrize("edit", [{"stop_atr": 9.5}, {"max_daily_loss_fraction": 1.0}, {"threshold": 251}])
def test_a_file_that_was_edited_is_refused_by_name(mine: Path, edit: dict[str, Any]) -> None:
    mine.write_text(json.dumps(json.loads(mine.read_text()) | edit))
    with pytest.raises(ConfigError, match=rf"parameters_file: {NAME}: must be as it was saved"):
        read_parameters(parameters_file=NAME)


def test_only_its_content_counts_not_how_it_is_written(mine: Path) -> None:
    content = json.loads(mine.read_text())
    mine.write_text(json.dumps(dict(reversed(content.items())), indent=7))
    assert read_parameters(parameters_file=NAME) == Config.from_parameters(CHOSEN)


@pytest.mark.parametrize(
    ("text", "rule"),
    [
        (None, "must be a file, is none"),
        ("threshold: 20", "must be JSON"),
        ('{"threshold": 20}', "must hold parameters and their parameters_sha256"),
        ("[1]", "must hold parameters"),
    ],
)
def test_what_is_no_file_of_parameters_is_refused_by_name(mine: Path, text: str | None, rule: str) -> None:
    if text is None:
        mine.unlink()
    else:
        mine.write_text(text)
    with pytest.raises(ConfigError, match=rf"parameters_file: {NAME} {rule}"):
        read_parameters(parameters_file=NAME)
    with pytest.raises(ConfigError, match="parameters_file: must be the path"):
        read_parameters(parameters_file=7)


def test_a_parameter_is_given_once(mine: Path) -> None:
    """A notebook's cell holds defaults, which say nothing; what differs from them was meant, and is not passed over."""
    defaults = {"threshold": 10.0, "ema_fast": 8}
    assert read_parameters({**defaults, "parameters_file": NAME}) == Config.from_parameters(CHOSEN)
    with pytest.raises(ConfigError, match=rf"threshold: must be given once, was 25 beside 250 in {NAME}"):
        read_parameters({**defaults, "threshold": 25, "parameters_file": NAME})
    with pytest.raises(ConfigError, match=r"threshold: must be given once, was 10\.0 beside 250"):
        read_parameters({**defaults, "parameters_file": NAME}, explicit={"threshold"})
    assert read_parameters({"threshold": 250, "parameters_file": NAME}, explicit={"threshold"}).bars.threshold == 250


def a_notebook(given: dict[str, Any]) -> Any:
    """The live notebook with what papermill was given."""
    notebook = nbformat.read(ROOT / "notebooks/live.ipynb", 4)
    notebook.metadata["papermill"] = {"parameters": given}
    return notebook


def test_the_live_notebook_takes_it_as_it_is(mine: Path) -> None:
    wanted = Config.from_parameters(CHOSEN, seed=9)
    assert check_parameters(a_notebook({"parameters_file": NAME, "seed": 9})) == wanted
    assert check_parameters(a_notebook({**json.loads(mine.read_text()), "seed": 9})) == wanted
    with pytest.raises(Refused, match="threshold: must be given once, was 10"):
        check_parameters(a_notebook({"parameters_file": NAME, "threshold": 10}))


def test_a_notebooks_cell_takes_it_too(mine: Path) -> None:
    assert session.parameters({"parameters_file": NAME, "seed": 9}) == Config.from_parameters(CHOSEN, seed=9)


def test_the_rule_is_the_one_it_was_saved_with(mine: Path) -> None:
    rules = mine.parent.parent / "rules"
    rules.mkdir()
    (rules / "adx.py").write_bytes((ROOT / "rules/adx.py").read_bytes())
    config = read_parameters(rule="rules/adx.py:Adx", adx_length=7)
    parameter_file.write(mine, config, RuleFile.named("rules/adx.py:Adx").sha256)
    assert read_parameters(parameters_file=NAME) == config
    assert read_parameters(json.loads(mine.read_text())) == config
    with (rules / "adx.py").open("a") as file:
        file.write("\n# another day\n")
    for given in ({"parameters_file": NAME}, json.loads(mine.read_text())):
        with pytest.raises(ConfigError, match=r"rule: .*adx.py must be the one that the parameters were saved with"):
            read_parameters(given)


def test_the_difference_is_told_by_parameter(mine: Path) -> None:
    config = Config.from_parameters(CHOSEN).changed(stop_atr=3.0, use_rsi_filter=False)
    assert parameter_file.difference(config, parameter_file.read(NAME)) == [
        ("use_rsi_filter", True, False),
        ("stop_atr", 2.5, 3.0),
    ]
    assert ("threshold", 10, 250) in parameter_file.difference(config)
    assert parameter_file.difference(Config()) == []


@given_some(
    st.fixed_dictionaries(
        {
            "threshold": st.decimals(min_value="0.001", max_value="1000", places=3),
            "stop_atr": st.floats(0.01, 50),
            "use_rsi_filter": st.booleans(),
            "cooldown_bars": st.integers(0, 99),
            "taker_fee": st.decimals(min_value=0, max_value="0.09", places=8),
        }
    )
)
def test_whatever_is_saved_comes_back(tmp_path_factory: pytest.TempPathFactory, given: dict[str, Any]) -> None:
    path = tmp_path_factory.getbasetemp() / "saved.json"
    config = Config.from_parameters(given)
    parameter_file.write(path, config)
    assert read_parameters(parameters_file=str(path)) == config
