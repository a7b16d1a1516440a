"""Keys come from the environment or a private file, and show themselves to nobody."""

from __future__ import annotations

import base64
import os
import pickle
from pathlib import Path

import pytest

from voltrade.errors import ConfigError
from voltrade.exchange.binance import DEMO, connect
from voltrade.exchange.credentials import Credentials

KEY, SECRET = "a-key-of-thirty-two-letters-and-up", "a-secret-that-nobody-may-ever-see-0"


def test_credentials_show_nothing_and_cannot_be_pickled() -> None:
    credentials = Credentials.load({"VOLTRADE_API_KEY": KEY, "VOLTRADE_API_SECRET": SECRET})
    assert (credentials.key, credentials.secret) == (KEY, SECRET)
    assert KEY not in f"{credentials!r} {credentials}"
    assert SECRET not in f"{credentials!r} {credentials}"
    with pytest.raises(TypeError, match="must not be pickled"):
        pickle.dumps(credentials)


def test_a_missing_key_is_named() -> None:
    with pytest.raises(ConfigError, match="VOLTRADE_API_SECRET: must be set in the environment"):
        Credentials.load({"VOLTRADE_API_KEY": KEY})


def a_key_file(folder: Path, mode: int) -> Path:
    path = folder / "keys"
    path.write_text(f"# demo\nVOLTRADE_API_KEY={KEY}\nVOLTRADE_API_SECRET = {SECRET}\n")
    path.chmod(mode)
    return path


def test_keys_are_read_from_a_private_file(tmp_path: Path) -> None:
    credentials = Credentials.load({}, a_key_file(tmp_path, 0o600))
    assert (credentials.key, credentials.secret) == (KEY, SECRET)


@pytest.mark.parametrize("mode", [0o644, 0o640, 0o604, 0o660])
def test_a_key_file_that_others_may_read_is_refused(tmp_path: Path, mode: int) -> None:
    with pytest.raises(ConfigError, match=f"keys: mode must be 0600, was {mode:04o}"):
        Credentials.load({}, a_key_file(tmp_path, mode))


@pytest.mark.skipif(os.getuid() != 0, reason="only root can give a file to another user")
def test_a_key_file_of_another_user_is_refused(tmp_path: Path) -> None:
    """Whoever owns it chooses the account that is traded."""
    path = a_key_file(tmp_path, 0o444)
    os.chown(path, 54_321, -1)
    with pytest.raises(ConfigError, match="keys: must be a plain file of this user's"):
        Credentials.load({}, path)


def test_a_key_file_that_is_a_link_or_a_folder_or_nothing_is_refused(tmp_path: Path) -> None:
    link = tmp_path / "link"
    link.symlink_to(a_key_file(tmp_path, 0o600))
    for path in (link, tmp_path, tmp_path / "none"):
        with pytest.raises(ConfigError):
            Credentials.load({}, path)


def test_the_environment_may_name_the_file(tmp_path: Path) -> None:
    credentials = Credentials.load({"VOLTRADE_KEY_FILE": str(a_key_file(tmp_path, 0o400))})
    assert (credentials.key, credentials.secret) == (KEY, SECRET)
    assert len(credentials.fingerprint) == 12
    assert credentials.fingerprint != Credentials("another", SECRET).fingerprint
    assert credentials.fingerprint == Credentials(KEY, "another").fingerprint


def test_a_file_that_is_named_counts_more_than_keys_of_the_environment(tmp_path: Path) -> None:
    """Else keys that were left in a shell would choose the account."""
    named = {"VOLTRADE_KEY_FILE": str(a_key_file(tmp_path, 0o600)), "VOLTRADE_API_KEY": "k", "VOLTRADE_API_SECRET": "s"}
    assert Credentials.load(named) == Credentials(KEY, SECRET)


@pytest.mark.parametrize(
    ("key", "secret"),
    [
        (f'"{KEY}"', f"'{SECRET}'"),
        (f"  {KEY}  ", f"{SECRET}\r"),
        (f"{KEY} # of the demo", f'"{SECRET}"   # both'),
    ],
)
@pytest.mark.parametrize("before", ["", "export ", "\ufeff"])
def test_a_key_file_is_read_as_a_shell_reads_it(key: str, secret: str, before: str, tmp_path: Path) -> None:
    path = tmp_path / "keys.env"
    path.write_bytes(
        f"{before}VOLTRADE_API_KEY={key}\n{before.strip(chr(0xFEFF))}VOLTRADE_API_SECRET={secret}\n".encode()
    )
    path.chmod(0o600)
    found = Credentials.load({"VOLTRADE_KEY_FILE": str(path), "VOLTRADE_API_KEY": "another"})
    assert found == Credentials(KEY, SECRET)
    assert found.source == f"{path}, which counts before VOLTRADE_API_KEY"


def test_a_key_of_the_environment_has_no_end_of_line_and_no_quotes() -> None:
    found = Credentials.load({"VOLTRADE_API_KEY": f"{KEY}\n", "VOLTRADE_API_SECRET": f'"{SECRET}"'})
    assert (found, found.source) == (Credentials(KEY, SECRET), "the environment")


@pytest.mark.parametrize("value", [f"{KEY} {KEY}", f"{KEY}\n{KEY}", f"{KEY}\x00", "schlüssel"])
def test_what_can_be_no_key_is_refused_without_its_value(value: str) -> None:
    with pytest.raises(ConfigError, match="VOLTRADE_API_KEY: must be one word as the exchange shows it") as error:
        Credentials.load({"VOLTRADE_API_KEY": value, "VOLTRADE_API_SECRET": SECRET})
    assert value not in str(error.value)


def test_a_key_file_is_named_with_its_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    with pytest.raises(
        ConfigError, match=f"^VOLTRADE_KEY_FILE: {tmp_path}/nothing: can't be read: No such file .*, must"
    ):
        Credentials.load({"VOLTRADE_KEY_FILE": "~/nothing"})
    a_key_file(tmp_path, 0o600).write_text(f"VOLTRADE_API_KEY={KEY}\n")
    with pytest.raises(ConfigError, match=f"VOLTRADE_API_SECRET: must be set in {tmp_path}/keys"):
        Credentials.load({"VOLTRADE_KEY_FILE": "~/keys"})


BODY = base64.b64encode(bytes.fromhex("302e020100300506032b657004220420") + bytes(range(32))).decode()
PEM = f"-----BEGIN PRIVATE KEY-----\n{BODY}\n-----END PRIVATE KEY-----"
"""An Ed25519 key whose seed is 0, 1, 2 ... 31."""


@pytest.mark.parametrize("written", [PEM, f'"{PEM}"', PEM.replace("\n", "\\n"), PEM.replace("\n", "  \n  ")])
def test_a_key_in_pem_signs_from_a_file_as_from_the_environment(written: str, tmp_path: Path) -> None:
    path = tmp_path / "keys.env"
    path.write_text(f"# of the demo\nVOLTRADE_API_SECRET={written}\nVOLTRADE_API_KEY=k\n")
    path.chmod(0o600)
    found = Credentials.load({}, path)
    assert found == Credentials.load({"VOLTRADE_API_KEY": "k", "VOLTRADE_API_SECRET": PEM}) == Credentials("k", PEM)
    signed = [
        connect(DEMO, credentials, lambda: 1, 5_000).sign("accountConfig", ["fapiPrivate"], "GET", {})
        for credentials in (found, Credentials("k", PEM))
    ]
    assert signed[0] == signed[1]
    assert "signature=" in signed[0]["url"]


def test_a_key_in_pem_is_hidden_line_by_line() -> None:
    exchange = connect(DEMO, Credentials("k-of-a-test", PEM), lambda: 1, 5_000)
    assert BODY not in exchange.redact(f"Unable to load {BODY}")


def test_a_pem_that_is_cut_off_ends_with_the_file(tmp_path: Path) -> None:
    path = tmp_path / "keys.env"
    path.write_text(f"VOLTRADE_API_KEY=k\nVOLTRADE_API_SECRET={PEM[:60]}")
    path.chmod(0o600)
    assert Credentials.load({}, path).secret == PEM[:60]
