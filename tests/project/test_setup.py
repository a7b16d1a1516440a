"""pyproject.toml is the one list of dependencies; what else names them must not drift from it."""

from __future__ import annotations

import re
import socket
import subprocess
import tomllib
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
EXTRAS: dict[str, list[str]] = {
    name: texts for name, texts in PROJECT["optional-dependencies"].items() if name != "bench"
}
"""Without those that benchmarks compare with: they have an environment of their own, and pin themselves."""
PINS = [Requirement(line) for line in (ROOT / "constraints.txt").read_text().splitlines()]
ENVIRONMENT = yaml.safe_load((ROOT / "environment.yml").read_text())
OLDEST = "3.11"


def applies(pin: Requirement, python: str) -> bool:
    """Whether a pin holds for a Python on 64-bit Linux."""
    machine = {
        "python_version": python,
        "python_full_version": f"{python}.9",
        "sys_platform": "linux",
        "os_name": "posix",
    }
    return pin.marker is None or pin.marker.evaluate({**machine, "platform_machine": "x86_64"})


def test_every_direct_dependency_is_pinned() -> None:
    pinned = {canonicalize_name(pin.name) for pin in PINS if applies(pin, OLDEST)}
    for text in [*PROJECT["dependencies"], *(text for texts in EXTRAS.values() for text in texts)]:
        assert canonicalize_name(Requirement(text).name) in pinned


def test_constraints_are_made_of_these_extras() -> None:
    (line,) = re.findall(r"^.*uv pip compile.*$", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert set(re.findall(r"--extra (\w+)", line)) == set(EXTRAS)


def test_constraints_pin_each_package_exactly_once() -> None:
    for pin in PINS:
        assert [specifier.operator for specifier in pin.specifier] == ["=="], f"{pin} must be pinned with =="
        assert not pin.url
        assert not pin.extras
    for python in ("3.11", "3.12", "3.13"):
        names = [canonicalize_name(pin.name) for pin in PINS if applies(pin, python)]
        assert sorted(names) == sorted(set(names))


def test_constraints_agree_with_the_list() -> None:
    pins = {canonicalize_name(pin.name): pin for pin in PINS if applies(pin, OLDEST)}
    for text in [*PROJECT["dependencies"], *(text for texts in EXTRAS.values() for text in texts)]:
        wanted = Requirement(text)
        (pinned,) = pins[canonicalize_name(wanted.name)].specifier
        assert wanted.specifier.contains(pinned.version), f"{wanted} is pinned at {pinned.version}"


def test_constraints_name_no_place() -> None:
    text = (ROOT / "constraints.txt").read_text()
    assert not re.search(r"://|^\s*-|@", text, re.MULTILINE)


def test_the_licence_is_stated_and_stands_in_its_file() -> None:
    assert PROJECT["license"] == "MIT"
    assert PROJECT["license-files"] == ["LICENSE"]
    words = (ROOT / "LICENSE").read_text()
    assert words.startswith("MIT License\n\nCopyright (c) 2026 voltrade contributors\n")
    for condition in ("Permission is hereby granted, free of charge", "shall be included in all", "WITHOUT WARRANTY"):
        assert condition in words


def test_the_conda_environment_is_the_same_one() -> None:
    *conda, pip = ENVIRONMENT["dependencies"]
    assert ENVIRONMENT["name"] == PROJECT["name"]
    assert conda == [f"python={OLDEST}", "pip"]
    assert SpecifierSet(PROJECT["requires-python"]).contains(OLDEST)
    constraints, package = pip["pip"]
    assert constraints == "-c constraints.txt"
    named = re.fullmatch(r"-e \.\[([a-z,]+)\]", package)
    assert named
    assert set(named[1].split(",")) <= set(EXTRAS)


def test_makefile_and_environment_install_the_same_extras() -> None:
    (package,) = (line for line in ENVIRONMENT["dependencies"][-1]["pip"] if line.startswith("-e"))
    assert f"-c constraints.txt -e '{package.removeprefix('-e ')}'\n" in (ROOT / "Makefile").read_text()


def test_the_oldest_python_is_the_one_that_tools_check_for() -> None:
    tools = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]
    assert PROJECT["requires-python"] == f">={OLDEST}"
    assert tools["mypy"]["python_version"] == OLDEST
    assert tools["ruff"]["target-version"] == "py" + OLDEST.replace(".", "")


def test_every_make_target_is_explained() -> None:
    makefile = (ROOT / "Makefile").read_text()
    told = subprocess.run(
        ["make", "--no-print-directory", "help"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout
    phony = re.findall(r"^\.PHONY: (.*)$", makefile, re.MULTILINE)
    assert {f"make {target}" for line in phony for target in line.split()} - {"make help", "make setup-dev"} == {
        " ".join(line.split()[:2]) for line in told.splitlines()
    }


def test_the_terminals_of_lab_find_what_is_in_the_environment(tmp_path: Path) -> None:
    """Fault case I10: `papermill`, as the notebooks show it, was not found in a terminal of their JupyterLab."""
    shell = tmp_path / "shell"
    shell.write_text('#!/bin/sh\necho "PATH=$PATH"\n')
    shell.chmod(0o700)
    command = ["make", "--no-print-directory", "--silent", "lab", f"SHELL={shell}"]  # runs nothing, tells its variables
    told = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert told.splitlines()[-1].startswith(f"PATH={ROOT / '.venv/bin'}:")


def test_a_failing_command_fails_the_build() -> None:
    """`.ci/run` is make test, and make passes the exit code on."""
    script = (ROOT / ".ci/run").read_text()
    assert "set -euo pipefail" in script
    assert script.rstrip().endswith('exec make test "$@"')
    assert (ROOT / ".ci/run").stat().st_mode & 0o111
    for target in ("live", "test"):
        recipe = re.search(rf"^{target}:.*\n((?:\t.*\n)+)", (ROOT / "Makefile").read_text(), re.MULTILINE)
        assert recipe
        assert not re.search(r"\|\||^\t-|;", recipe[1], re.MULTILINE), f"{target} must not hide a failure"


def test_no_test_can_leave_this_machine() -> None:
    with (
        socket.socket() as outside,
        pytest.raises(PermissionError, match=r"must stay on this machine, was 192\.0\.2\.1"),
    ):
        outside.connect(("192.0.2.1", 443))
    with pytest.raises(PermissionError, match=r"on this machine, was exchange\.invalid"):
        socket.create_connection(("exchange.invalid", 443))
    with socket.create_server(("127.0.0.1", 0)) as server, socket.create_connection(server.getsockname()) as inside:
        assert inside.getpeername() == server.getsockname()
