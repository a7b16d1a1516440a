"""Real money wants keys, a person's word or an authorisation file, and settings below the file's ceilings."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest

from voltrade.__main__ import main
from voltrade.config import Config
from voltrade.engine import authorisation
from voltrade.engine.authorisation import CEILINGS, authorise, hashes_of, left_out
from voltrade.engine.permission import check_permitted, confirmation_text, permit, permit_resumed
from voltrade.errors import ConfigError
from voltrade.exchange.credentials import Credentials
from voltrade.strategy.rule_file import keep_rule

KEYS = {"VOLTRADE_API_KEY": "a-key-of-thirty-two-letters-and-up", "VOLTRADE_API_SECRET": "a-secret-0123456789"}
ACCOUNT = Credentials.load(KEYS).fingerprint
NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
RIGHT = f"trade BTCUSDT up to 20000 on account {ACCOUNT}, 2026-03-01"


def a_config(confirmation: str = "", **parameters: Any) -> Config:
    return Config.from_parameters(mode="live", confirmation=confirmation, **parameters)


def test_the_word_of_the_day_allows_a_live_session() -> None:
    assert confirmation_text(a_config(), ACCOUNT, NOW) == RIGHT
    permission = permit(a_config(RIGHT), KEYS, NOW)
    assert (permission.account, permission.by) == (ACCOUNT, f"typed confirmation: {RIGHT}")
    assert permission.credentials.key == KEYS["VOLTRADE_API_KEY"]
    assert permit(a_config(f"  {RIGHT.replace(' ', '  ')} "), KEYS, NOW).by.endswith(RIGHT)  # typed by a person


WRONG_WORDS = [
    "",
    "yes",
    "live",
    RIGHT.upper(),
    RIGHT + "!",
    RIGHT[:-1],
    RIGHT.replace("BTCUSDT", "ETHUSDT"),
    RIGHT.replace("20000", "2000"),
    RIGHT.replace("20000", "200000"),
    RIGHT.replace("20000", "20,000"),
    RIGHT.replace("20000", "1e999"),
    RIGHT.replace(ACCOUNT, ""),
    RIGHT.replace(ACCOUNT, ACCOUNT[:-1]),
    RIGHT.replace(ACCOUNT, "000000000000"),
    RIGHT.replace("03-01", "02-28"),
    RIGHT.replace("03-01", "03-02"),
    RIGHT.replace("2026", "2025"),
    RIGHT.replace(", 2026-03-01", ""),
    f"{RIGHT}\n{RIGHT}",
    "trade {symbol} up to {notional} on account {account}, {today}",
]


@pytest.mark.parametrize("word", WRONG_WORDS)
def test_a_wrong_word_is_refused_and_the_right_one_told(word: str) -> None:
    with pytest.raises(ConfigError, match=f"^confirmation: must be '{RIGHT}'"):
        permit(a_config(word), KEYS, NOW)


def test_the_word_names_what_the_settings_would_trade() -> None:
    config = a_config(symbol="ETHUSDT", capital=1_500, max_notional_multiple=2.5)
    assert confirmation_text(config, ACCOUNT, NOW) == f"trade ETHUSDT up to 3750 on account {ACCOUNT}, 2026-03-01"
    with pytest.raises(ConfigError, match="confirmation"):
        permit(a_config(RIGHT, capital=10_001), KEYS, NOW)


def test_without_keys_no_word_helps() -> None:
    for mode in ("demo", "live"):
        with pytest.raises(ConfigError, match=f"^mode {mode}: VOLTRADE_API_SECRET: must be set"):
            permit(Config.from_parameters(mode=mode), {"VOLTRADE_API_KEY": "x"}, NOW)
    assert permit(Config.from_parameters(mode="demo"), KEYS, NOW).account == ACCOUNT
    with pytest.raises(ConfigError, match="confirmation is for mode live only"):
        Config.from_parameters(mode="demo", confirmation=RIGHT)


def resumed(config: Config, environment: dict[str, str], account: str = ACCOUNT, began: datetime | None = NOW) -> Any:
    return permit_resumed(config, account, environment, NOW, began=began)


def test_a_run_that_goes_on_needs_the_keys_that_it_was_begun_with_and_no_word_of_another_day() -> None:
    yesterday = a_config(RIGHT.replace("03-01", "02-28"))
    permission = resumed(yesterday, KEYS, began=NOW - timedelta(days=1))
    assert (permission.credentials.key, permission.denied) == (KEYS["VOLTRADE_API_KEY"], "")
    with pytest.raises(ConfigError, match=f"keys: must be those of account {ACCOUNT}"):
        resumed(yesterday, {**KEYS, "VOLTRADE_API_KEY": "another"})
    with pytest.raises(ConfigError, match="VOLTRADE_API_KEY: must be set"):
        resumed(yesterday, {})
    demo = Config.from_parameters(mode="demo")
    assert resumed(demo, KEYS).denied == ""
    with pytest.raises(ConfigError, match=f"keys: must be those of account {ACCOUNT}"):
        resumed(demo, {**KEYS, "VOLTRADE_API_KEY": "another"})


@pytest.mark.parametrize(
    ("word", "began", "is_denied"),
    [
        (RIGHT.replace("03-01", "01-12"), datetime(2026, 1, 12, 23, 59, tzinfo=UTC), False),  # weeks ago
        (RIGHT.replace("03-01", "01-12"), datetime(2026, 1, 13, 0, 14, tzinfo=UTC), False),  # checked before midnight
        (RIGHT.replace("03-01", "01-12"), datetime(2026, 1, 13, 0, 15, tzinfo=UTC), True),
        (RIGHT, datetime(2026, 1, 12, tzinfo=UTC), False),  # typed again today
        (RIGHT, None, False),
        (RIGHT.replace("03-01", "01-12"), None, True),
        *((word, NOW, True) for word in WRONG_WORDS if word),
    ],
)
def test_a_run_that_goes_on_trades_on_only_by_the_word_of_the_day_on_which_it_began(
    word: str, began: datetime | None, is_denied: bool
) -> None:
    """A record that was edited has no other permission than the run began with."""
    denied = resumed(a_config(word), KEYS, began=began).denied
    assert denied.startswith("confirmation: must be 'trade BTCUSDT up to 20000 on account") == is_denied, denied


@pytest.mark.parametrize(
    ("in_the_record", "in_the_journal", "denied"),
    [
        (RIGHT.replace("03-01", "02-20"), "", "VOLTRADE_AUTHORISATION: must name"),  # begun by a file
        ("x", "", "VOLTRADE_AUTHORISATION: must name"),
        ("", RIGHT.replace("03-01", "02-20"), ""),
        ("x", RIGHT.replace("03-01", "02-20"), ""),
        (RIGHT, "", ""),  # typed again today
        (RIGHT.replace("03-01", "02-20"), "x", "confirmation: must be"),
        (RIGHT.replace("03-01", "02-20"), None, ""),  # no journal is left
    ],
)
def test_what_allowed_a_run_is_read_from_its_journal_and_not_from_its_record(
    in_the_record: str, in_the_journal: str | None, denied: str
) -> None:
    began = datetime(2026, 2, 20, 9, tzinfo=UTC)
    config = a_config(in_the_record)
    found = permit_resumed(config, ACCOUNT, KEYS, NOW, began=began, begun_by=in_the_journal).denied
    assert found.startswith(denied), found
    assert bool(found) == bool(denied), found


# --- authorisation files ----------------------------------------------------------------------------------------------


def a_file(folder: Path, mode: int = 0o600, **changed: Any) -> dict[str, str]:
    """An authorisation file as `authorise` writes it, but for what is changed (None: left out)."""
    path = folder / "authorisation.json"
    stated = authorise(path, a_config(), ACCOUNT, timedelta(days=7), NOW) | changed
    path.write_text(json.dumps({name: value for name, value in stated.items() if value is not None}))
    path.chmod(mode)
    return {**KEYS, "VOLTRADE_AUTHORISATION": str(path)}


def test_a_file_allows_scheduled_sessions_until_it_expires(tmp_path: Path) -> None:
    environment = a_file(tmp_path)
    assert (tmp_path / "authorisation.json").stat().st_mode & 0o777 == 0o600
    assert permit(a_config(), environment, NOW).by == "authorisation file, until 2026-03-08 12:00 UTC"
    assert permit(a_config(capital=5_000), environment, NOW + timedelta(days=6))  # less than was allowed
    with pytest.raises(
        ConfigError, match=r"expired at 2026-03-08 12:00:00 UTC, it is 2026-03-08 12:00:00 UTC \(`python"
    ):
        permit(a_config(), environment, NOW + timedelta(days=7))
    with pytest.raises(ConfigError, match="confirmation: must be"):  # a wrong word is not made good by a file
        permit(a_config("yes"), environment, NOW)


@pytest.mark.parametrize(
    ("changed", "rule"),
    [
        ({"account": "000000000000"}, f"is for account 000000000000, the session's key is of {ACCOUNT} "),
        ({"account": 7}, "account: must be a text, was 7"),
        (
            {"symbol": "ETHUSDT"},
            "^authorisation.json: is for ETHUSDT, the session trades BTCUSDT .`python -m voltrade authorise`",
        ),
        ({"symbol": ["BTCUSDT"]}, "symbol: must be a text"),
        (
            {"max_notional": "19999.99"},
            "max_notional_multiple is 20000, must be at most max_notional 19999.99 .set what it allows, or",
        ),
        ({"max_notional": 19_999}, "capital x max_notional_multiple is 20000, must be at most max_notional 19999 "),
        ({"max_daily_loss": "299.9"}, "max_daily_loss_fraction is 300, must be at most max_daily_loss 299.9 "),
        ({"max_drawdown": 999}, "capital x max_drawdown_fraction is 1000, must be at most max_drawdown 999 "),
        ({"max_risk_fraction": 0.0049}, "risk_fraction is 0.005, must be at most max_risk_fraction 0.0049 "),
        ({"max_leverage": 4}, "leverage is 5, must be at most max_leverage 4 "),
        ({"rule_sha256": "a" * 64}, f"rule_sha256 of the session is none, must be {'a' * 64}"),
        ({"parameters_sha256": "a" * 64}, f"parameters_sha256 of the session is [0-9a-f]+, must be {'a' * 64}"),
        ({"max_notional": None}, "can't be read as an authorisation: max_notional: must be there"),
        ({"max_notional": "NaN"}, "max_notional: must be a number above 0 and at most 10.12, was NaN"),
        ({"max_notional": float("nan")}, "must have finite numbers, was NaN"),
        ({"max_notional": "Infinity"}, "max_notional: must be a number above 0"),
        ({"max_notional": "all"}, "max_notional: must be a number above 0 and at most 10.12, was all"),
        ({"max_notional": True}, "max_notional: must be a number above 0 and at most 10.12, was True"),
        ({"max_notional": "1e999999999"}, "max_notional: must be a number above 0 and at most 10.12, was 1e9+"),
        ({"max_notional": "1e-99"}, "max_notional: must be a number above 0"),
        ({"max_leverage": 0}, "max_leverage: must be a number above 0 and at most 10.12, was 0"),
        ({"max_leverage": -5}, "max_leverage: must be a number above 0 and at most 10.12, was -5"),
        ({"max_drawdown": {"USDT": 5}}, "max_drawdown: must be a number above 0"),
        ({"rule_sha256": "abc"}, "rule_sha256: must be a SHA-256 of 64 hex digits, was 'abc'"),
        ({"expires": "2026-03-01T12:00:00+00:00"}, "expired at 2026-03-01 12:00:00 UTC, it is"),
        ({"expires": "2026-02-01T14:00:00+02:00"}, "expired at 2026-02-01 12:00:00 UTC, it is"),
        ({"expires": "2026-05-01T12:00:00+00:00"}, "expires at 2026-05-01 12:00:00 UTC, must be within 31 days"),
        ({"expires": "2026-03-02T12:00:00"}, "expires: must state its zone, such as"),
        ({"expires": "tomorrow"}, "can't be read as an authorisation: expires: must be a time in ISO 8601"),
        ({"expires": None}, "expires: must be there"),
        ({"and": "more"}, "and: unknown; the fields are account, expires, max_daily_loss"),
        ({"leverage": 5}, "leverage: unknown; the fields are"),
    ],
)
def test_a_file_that_says_something_else_allows_nothing(tmp_path: Path, changed: dict[str, Any], rule: str) -> None:
    with pytest.raises(ConfigError, match=rule):
        permit(a_config(), a_file(tmp_path, **changed), NOW)


def test_a_file_that_is_not_there_is_told_with_its_variable_and_what_makes_one(tmp_path: Path) -> None:
    """It said `must be a readable file and no link, was No such file or directory`."""
    file = tmp_path / "none.json"
    with pytest.raises(ConfigError) as refused:
        permit(a_config(), {**KEYS, "VOLTRADE_AUTHORISATION": str(file)}, NOW)
    assert str(refused.value) == (
        f"VOLTRADE_AUTHORISATION: {file}: can't be read: No such file or directory, must be a readable file and no "
        "link (`python -m voltrade authorise` writes one)"
    )


@pytest.mark.parametrize("mode", [0o644, 0o640, 0o660, 0o606])
def test_a_file_that_others_may_touch_allows_nothing(tmp_path: Path, mode: int) -> None:
    with pytest.raises(ConfigError, match=rf"authorisation.json: mode must be 0600, was {mode:04o}"):
        permit(a_config(), a_file(tmp_path, mode), NOW)


@pytest.mark.parametrize("text", ["", "{", "[]", "7", '{"account": "a", "account": "b"}', "[" * 60_000, "\xff\0"])
def test_a_file_that_is_no_object_of_json_allows_nothing(tmp_path: Path, text: str) -> None:
    environment = a_file(tmp_path)
    (tmp_path / "authorisation.json").write_bytes(text.encode("latin-1"))
    with pytest.raises(ConfigError, match=r"authorisation\.json: can't be read as an authorisation"):
        permit(a_config(), environment, NOW)


def test_a_field_that_a_file_has_twice_allows_nothing(tmp_path: Path) -> None:
    """Who reads the file sees the lower ceiling; the last one would count."""
    environment, path = a_file(tmp_path), tmp_path / "authorisation.json"
    path.write_text(path.read_text().replace("{", '{"max_leverage": "1", ', 1))
    with pytest.raises(ConfigError, match="can't be read as an authorisation: must have each field once"):
        permit(a_config(), environment, NOW)


@pytest.mark.parametrize(
    ("changed", "rule"),
    [
        ({"capital": 10_001}, "capital x max_notional_multiple is 20002, must be at most max_notional 20000"),
        ({"max_notional_multiple": 2.1}, "is 21000, must be at most max_notional 20000"),
        ({"max_daily_loss_fraction": 0.031}, "is 310, must be at most max_daily_loss 300"),
        ({"max_drawdown_fraction": 0.11}, "is 1100, must be at most max_drawdown 1000"),
        ({"risk_fraction": 0.0051}, "is 0.0051, must be at most max_risk_fraction 0.005"),
        ({"leverage": 6}, "is 6, must be at most max_leverage 5"),
        # a loss limit that is measured anew after a pause would allow a second loss of its size
        (
            {"daily_loss_resume": "after_seconds"},
            "daily_loss_resume is after_seconds, must be next_utc_day under max_daily_loss",
        ),
        ({"daily_loss_resume": "person"}, "daily_loss_resume is person, must be next_utc_day under max_daily_loss"),
        ({"drawdown_resume": "after_seconds"}, "drawdown_resume is after_seconds, must be person under max_drawdown"),
        # and an open position would go on losing
        ({"daily_loss_action": "block"}, "daily_loss_action is block, must be flatten under max_daily_loss"),
        ({"daily_loss_action": "cancel"}, "daily_loss_action is cancel, must be flatten under max_daily_loss"),
        ({"drawdown_action": "block"}, "drawdown_action is block, must be flatten under max_drawdown"),
        ({"drawdown_action": "cancel"}, "drawdown_action is cancel, must be flatten under max_drawdown"),
    ],
)
def test_no_parameter_exceeds_a_ceiling_by_either_permission(
    tmp_path: Path, changed: dict[str, Any], rule: str
) -> None:
    environment, above = a_file(tmp_path), a_config(**changed)
    with pytest.raises(ConfigError, match=rule):
        permit(above, environment, NOW)
    word = confirmation_text(above, ACCOUNT, NOW)
    with pytest.raises(ConfigError, match=rule):
        permit(a_config(word, **changed), environment, NOW)
    assert rule.split()[0] in resumed(a_config(word, **changed), environment).denied


def test_every_ceiling_that_is_exceeded_is_named_at_once(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as refused:
        permit(a_config(capital=20_000, leverage=20), a_file(tmp_path), NOW)
    names = ("max_notional", "max_daily_loss", "max_drawdown", "max_leverage")
    assert [name for name in names if f"{name} " in str(refused.value)] == list(names)


def test_the_ceilings_stand_in_the_permission_with_their_values(tmp_path: Path) -> None:
    environment = a_file(tmp_path)
    ceilings = permit(a_config(capital=5_000), environment, NOW).ceilings
    assert ceilings.startswith(
        "capital x max_notional_multiple 10000 of 20000; capital x max_daily_loss_fraction 150 of 300; "
        "capital x max_drawdown_fraction 500 of 1000; risk_fraction 0.005 of 0.005; leverage 5 of 5 "
    )
    digest = sha256((tmp_path / "authorisation.json").read_bytes()).hexdigest()
    assert ceilings.endswith(f"(authorisation.json, sha256 {digest[:12]})")


@pytest.mark.parametrize(
    ("setting", "value", "missing"),
    [
        ("daily_loss_action", "block", "max_daily_loss"),
        ("daily_loss_resume", "after_seconds", "max_daily_loss"),
        ("drawdown_resume", "next_utc_day", "max_drawdown"),
    ],
)
def test_a_file_never_refuses_the_settings_that_it_was_written_from(
    setting: str, value: str, missing: str, tmp_path: Path
) -> None:
    path, config = tmp_path / "authorisation.json", a_config(**{setting: value})
    stated = authorise(path, config, ACCOUNT, timedelta(days=7), NOW)
    assert {each.name for each in CEILINGS} - set(stated) == {missing}
    (line,) = left_out(config)
    assert line.startswith(f"{missing} is left out: it asks for {setting} ")
    assert line.endswith(f", was {value}")
    assert permit(config, {**KEYS, "VOLTRADE_AUTHORISATION": str(path)}, NOW)


def test_a_pinned_file_allows_one_rule_and_one_set_of_trading_settings(tmp_path: Path) -> None:
    rule = tmp_path / "rule.py"
    rule.write_text("from voltrade.signal_engine import SignalEngine\n\n\nclass Mine(SignalEngine):\n    pass\n")
    config = a_config(rule=f"{rule}:Mine")
    path = tmp_path / "pinned.json"
    stated = authorise(path, config, ACCOUNT, timedelta(days=7), NOW, is_pinned=True)
    assert {name: stated[name] for name in hashes_of(config)} == hashes_of(config)
    environment = {**KEYS, "VOLTRADE_AUTHORISATION": str(path)}
    assert "rule_sha256" in permit(config, environment, NOW).ceilings
    assert permit(config.changed(duration_s=60.0), environment, NOW)  # how long is no trading setting
    with pytest.raises(ConfigError, match="parameters_sha256 of the session is"):
        permit(config.changed(stop_atr=2.5), environment, NOW)
    with pytest.raises(ConfigError, match="rule_sha256 of the session is none, must be"):
        permit(a_config(), environment, NOW)
    keep_rule(config, tmp_path / "run")
    rule.write_text(rule.read_text() + "# edited\n")
    with pytest.raises(ConfigError, match="rule_sha256 of the session is"):
        permit(config, environment, NOW)
    assert permit(config, environment, NOW, tmp_path / "run")  # the copy is what trades
    keep_rule(config, tmp_path / "later")
    rule.write_text(rule.read_text().removesuffix("# edited\n"))
    with pytest.raises(ConfigError, match="rule_sha256 of the session is"):
        permit(config, environment, NOW, tmp_path / "later")
    assert "rule_sha256 of the session" in permit_resumed(config, ACCOUNT, environment, NOW, tmp_path / "later").denied


def test_a_run_that_goes_on_trades_on_only_by_a_file_that_allows_it_still(tmp_path: Path) -> None:
    environment = a_file(tmp_path)
    assert resumed(a_config(), environment).denied == ""
    assert resumed(a_config(), environment).ceilings
    late = permit_resumed(a_config(), ACCOUNT, environment, NOW + timedelta(days=8))
    assert "expired at 2026-03-08 12:00:00 UTC" in late.denied
    confirmed = permit_resumed(a_config(RIGHT), ACCOUNT, environment, NOW + timedelta(days=8), began=NOW)
    assert confirmed.denied == ""  # it was begun by the word of a day; only the ceilings are the file's
    assert "must name the authorisation file" in resumed(a_config(), KEYS).denied
    (tmp_path / "authorisation.json").write_text("{}")  # lowered, or damaged, while the engine was away
    assert "can't be read" in resumed(a_config(RIGHT), environment).denied


@pytest.mark.skipif(os.getuid() != 0, reason="only root can give a file to another user")
def test_a_file_may_be_another_users_who_alone_may_write_it(tmp_path: Path) -> None:
    environment = a_file(tmp_path, 0o444)
    os.chown(tmp_path / "authorisation.json", 54_321, -1)
    assert permit(a_config(), environment, NOW).by.startswith("authorisation file of user 54321, until 2026-03-08")
    for mode in (0o464, 0o446, 0o666):
        (tmp_path / "authorisation.json").chmod(mode)
        with pytest.raises(ConfigError, match=f"mode must let only its owner write, as 0644, was {mode:04o}"):
            permit(a_config(), environment, NOW)


def test_the_machines_file_holds_whatever_the_variable_and_the_word_say(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    a_file(tmp_path)
    monkeypatch.setattr(authorisation, "MACHINE_FILE", tmp_path / "authorisation.json")
    assert permit(a_config(), KEYS, NOW).by == "authorisation file, until 2026-03-08 12:00 UTC"
    own = tmp_path / "own"
    own.mkdir()
    generous = a_file(own, max_leverage=125)
    word = confirmation_text(a_config(), ACCOUNT, NOW)
    for environment, given in ((KEYS, word), (generous, ""), (generous, word)):
        with pytest.raises(ConfigError, match="leverage is 20, must be at most max_leverage 5"):
            permit(a_config(given, leverage=20), environment, NOW)
    (tmp_path / "authorisation.json").chmod(0o666)
    with pytest.raises(ConfigError, match="mode must be 0600"):
        permit(a_config(word), KEYS, NOW)


@pytest.mark.parametrize("hidden_by", ["a plain file", "a loop of links", "another user"])
def test_a_machines_file_that_can_not_be_looked_for_allows_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, hidden_by: str
) -> None:
    """Its ceilings would not hold: only a file that is known not to be there has none."""
    folder = tmp_path / "etc"
    monkeypatch.setattr(authorisation, "MACHINE_FILE", folder / "authorisation.json")
    word = confirmation_text(a_config(), ACCOUNT, NOW)
    assert permit(a_config(word), KEYS, NOW).ceilings == ""
    if hidden_by == "a plain file":
        folder.write_text("")
    elif hidden_by == "a loop of links":
        folder.symlink_to(folder)
    else:
        folder.mkdir(0)
    user = as_another_user() if hidden_by == "another user" else nullcontext()
    with user, pytest.raises(ConfigError, match=r"authorisation\.json: must be readable or not there"):
        permit(a_config(word), KEYS, NOW)


@contextmanager
def as_another_user() -> Iterator[None]:
    """Nobody but root reads a folder of mode 0."""
    own = os.geteuid()
    if own == 0:
        os.seteuid(54_321)
    try:
        yield
    finally:
        os.seteuid(own)


def test_no_file_is_written_that_lasts_too_long_or_over_another(tmp_path: Path) -> None:
    path = tmp_path / "authorisation.json"
    for days in (0, -1, 32):
        with pytest.raises(ConfigError, match=f"days: must be above 0 and at most 31, was {days}"):
            authorise(path, a_config(), ACCOUNT, timedelta(days=days), NOW)
    a_file(tmp_path)
    with pytest.raises(
        ConfigError, match="must be a new file, exists already: name another for VOLTRADE_AUTHORISATION"
    ):
        authorise(path, a_config(), ACCOUNT, timedelta(days=1), NOW)
    with pytest.raises(ConfigError, match=r"no/x\.json: must be a file that can be written: No such file or directory"):
        authorise(tmp_path / "no/x.json", a_config(), ACCOUNT, timedelta(days=1), NOW)
    for mode in ("sim", "paper", "demo"):
        config = Config.from_parameters(mode=mode)
        with pytest.raises(ConfigError, match=f"mode: must be live, the only one .*, was {mode}"):
            authorise(tmp_path / "other.json", config, ACCOUNT, timedelta(days=1), NOW)
    assert not (tmp_path / "other.json").exists()


def test_the_command_writes_a_file_that_allows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, value in KEYS.items():
        monkeypatch.setenv(name, value)
    path = tmp_path / "cron.json"
    command = ["authorise", str(path), "--days", "2", "-p", "mode", "live", "-p", "capital", "500"]
    assert main(command) == 0
    out = capsys.readouterr().out
    assert f"account {ACCOUNT}, symbol BTCUSDT" in out
    assert "max_notional 1000, max_daily_loss 15, max_drawdown 50, max_risk_fraction 0.005, max_leverage 5" in out
    monkeypatch.setenv("VOLTRADE_AUTHORISATION", str(path))
    check_permitted(a_config(capital=500))
    with pytest.raises(ConfigError, match="is 20000, must be at most max_notional 1000"):
        check_permitted(a_config())
