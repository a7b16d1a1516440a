"""Papermill's side of a session: what happens before an executed notebook is written and its kernel started.

Installing voltrade makes `PapermillEngine` papermill's default engine, so that a plain `papermill notebooks/live.ipynb
runs/today.ipynb` refuses wrong parameters while nothing is written, and keeps an earlier run instead of overwriting it.
Notebooks without the flag `voltrade.session` in their metadata are executed just as papermill does.
"""

from __future__ import annotations

import ast
import json
import os
import socket
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click

from voltrade.config import RECORDED, RUN_DIR, Config, refuse_secrets
from voltrade.errors import ConfigError


class PapermillEngine:
    """The engine that papermill calls; it prepares a session's notebook and hands it on to papermill's own engine."""

    @classmethod
    def execute_notebook(cls, nb: Any, kernel_name: str, output_path: str | None = None, **options: Any) -> Any:
        """Execute a notebook.

        Raises:
            Refused: a parameter breaks a rule, or a session is still writing to that output. Nothing was written.
        """
        target = output_path or nb.metadata.papermill.get("output_path")
        environment: dict[str, str] = {}
        if is_session(nb):
            check_parameters(nb)
            environment = {RECORDED: "1", "PYDEVD_DISABLE_FILE_VALIDATION": "1"}
            if target and target != "-" and "://" not in target:
                notebook = _origin() / target
                if notebook.suffix != ".ipynb":
                    raise Refused(f"output: must end in .ipynb, was {target}")
                notebook.parent.mkdir(parents=True, exist_ok=True)
                for line in move_aside(notebook):
                    print(line, file=sys.stderr)
                environment[RUN_DIR] = str(notebook.with_suffix(""))
            # One host, no network: the kernel's warning that its TCP sockets aren't encrypted is noise here.
            options["extra_arguments"] = [*options.get("extra_arguments", []), "--IPKernelApp.log_level=40"]
        with _environment(environment):
            return NBClientEngine.execute_notebook(nb, kernel_name, output_path=output_path, **options)

    @classmethod
    def nb_kernel_name(cls, nb: Any, name: str | None = None) -> Any:
        """Name of the kernel that the notebook asks for."""
        return NBClientEngine.nb_kernel_name(nb, name)

    @classmethod
    def nb_language(cls, nb: Any, language: str | None = None) -> Any:
        """Language that the notebook is written in."""
        return NBClientEngine.nb_language(nb, language)


class Refused(ConfigError, click.ClickException):
    """A run that may not start; papermill's command line shows the message alone and exits with 1."""

    def __init__(self, message: str) -> None:
        click.ClickException.__init__(self, message)


def is_session(nb: Any) -> bool:
    """Whether a notebook says of itself that it runs a voltrade session."""
    return bool(nb.metadata.get("voltrade", {}).get("session", False))


def check_parameters(nb: Any) -> None:
    """Validate the given parameters together with the defaults of the notebook's parameters cell.

    Raises:
        Refused: names each parameter and the rule it breaks.
    """
    given = {
        name: value
        for name, value in (nb.metadata.papermill.get("parameters") or {}).items()
        if not name.startswith("PAPERMILL_")  # what --inject-paths adds
    }
    try:
        refuse_secrets(given)
        Config.from_parameters({**_defaults(nb), **given})
    except ConfigError as error:
        raise Refused(str(error)) from None


def _defaults(nb: Any) -> dict[str, object]:
    """Names and literal values that the cell tagged `parameters` assigns."""
    defaults: dict[str, object] = {}
    for cell in nb.cells:
        if cell.cell_type != "code" or "parameters" not in cell.metadata.get("tags", []):
            continue
        for statement in ast.parse(cell.source).body:
            if isinstance(statement, ast.Assign):
                target, value = statement.targets[0], statement.value
            elif isinstance(statement, ast.AnnAssign) and statement.value is not None:
                target, value = statement.target, statement.value
            else:
                continue
            if isinstance(target, ast.Name):
                try:
                    defaults[target.id] = ast.literal_eval(value)
                except ValueError:
                    continue  # computed in the kernel, and checked there
    return defaults


def move_aside(notebook: Path) -> list[str]:
    """Move an earlier run, its notebook and its folder, from the way; return what to tell the person.

    Both get the name `<start UTC>_NAME`, with a number where that exists.

    Raises:
        Refused: the session that wrote them is still running.
    """
    folder = notebook.with_suffix("")
    if not notebook.exists() and not folder.exists():
        return []
    record = _record(folder)
    if _is_running(record):
        raise Refused(
            f"{notebook.name}: the session that writes it is still running (engine process {record.get('pid')}); "
            "stop it first, or choose another output"
        )
    name = f"{_started(notebook, record):%Y%m%dT%H%M%SZ}_{notebook.stem}"
    stem, count = name, 1
    while any(notebook.with_name(stem + end).exists() for end in ("", notebook.suffix)):
        count += 1
        stem = f"{name}-{count}"
    told = []
    for path, kept in ((notebook, notebook.with_name(stem + notebook.suffix)), (folder, notebook.with_name(stem))):
        if path.exists():
            path.rename(kept)
            told.append(f"voltrade: kept the earlier {path.name} as {kept.name}")
    return told


def _record(folder: Path) -> Mapping[str, Any]:
    """The `run.json` of a run's folder; empty where there is none that can be read."""
    try:
        record = json.loads((folder / "run.json").read_text())
    except (OSError, ValueError):
        return {}
    return record if isinstance(record, dict) else {}


def _started(notebook: Path, record: Mapping[str, Any]) -> datetime:
    """When an earlier run started: as its record says, else as papermill noted, else its file's time."""
    texts = [record.get("created")]
    with suppress(OSError, ValueError, KeyError, TypeError):
        texts.append(json.loads(notebook.read_text())["metadata"]["papermill"]["start_time"])
    for text in texts:
        if isinstance(text, str):
            try:
                return datetime.fromisoformat(text).astimezone(UTC)
            except ValueError:
                continue
    existing = notebook if notebook.exists() else notebook.with_suffix("")
    return datetime.fromtimestamp(existing.stat().st_mtime, UTC)


def _is_running(record: Mapping[str, Any]) -> bool:
    """Whether a run's engine still answers; before it listens, whether its process is there."""
    if record.get("state") not in ("starting", "running"):
        return False
    if address := record.get("socket"):
        with socket.socket(socket.AF_UNIX) as probe:
            try:
                probe.connect(str(address))
            except OSError:
                return False
            return True
    pid = record.get("pid")
    if not isinstance(pid, int) or pid <= 0:
        return False
    try:
        os.kill(pid, 0)
    except OSError:
        return False
    return True


def _origin() -> Path:
    """The folder that papermill's relative paths start from; with `--cwd` it isn't the current one."""
    handler = papermill_io.get_handler("local")
    origin = handler.cwd(None)
    handler.cwd(origin)
    return Path(origin or os.getcwd())


@contextmanager
def _environment(values: Mapping[str, str]) -> Iterator[None]:
    """Set environment variables for the kernel that starts meanwhile, and put back what was there."""
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


# Last, because papermill, while it is imported, loads this module for the class above.
from papermill.engines import NBClientEngine, papermill_engines  # noqa: E402
from papermill.iorw import papermill_io  # noqa: E402

papermill_engines.register(None, PapermillEngine)
