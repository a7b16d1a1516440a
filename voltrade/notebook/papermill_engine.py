"""Papermill's engine for session notebooks: checks before the kernel starts, and interrupts while it runs.

Installing voltrade makes `PapermillEngine` papermill's default engine. So `papermill notebooks/live.ipynb
runs/today.ipynb` refuses wrong parameters before anything is written, and keeps an earlier run instead of overwriting
it. A run whose engine was killed is resumed. Ctrl-C or SIGTERM end a session by its stop policy, and the notebook is
completed. The kernel's session can only trade the parameters that papermill was given. The executed notebook notes the
journal's head. Notebooks without the flag `voltrade.session` in their metadata are executed as by papermill itself. In
all notebooks, charts are saved as images instead of widgets.
"""

from __future__ import annotations

import ast
import json
import os
import signal
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from types import FrameType
from typing import Any

import click

from voltrade.config import RECORDED, RUN_DIR, Config
from voltrade.engine.permission import check_permitted
from voltrade.errors import ConfigError
from voltrade.runs import handover
from voltrade.runs import run_file as records
from voltrade.strategy import parameter_file
from voltrade.strategy.rule_file import read_parameters, without_zero

MAX_SIGNALS = 3
"""After this many signals papermill aborts the notebook; the session then ends by its `on_notebook_lost`."""


class PapermillEngine:
    """The engine that papermill calls; it prepares a session's notebook, which papermill's own engine then executes."""

    @classmethod
    def execute_notebook(cls, nb: Any, kernel_name: str, output_path: str | None = None, **options: Any) -> Any:
        """Execute a notebook.

        Raises:
            Refused: A parameter is wrong, or a session is still writing to that output. Nothing was written.
        """
        target = output_path or nb.metadata.papermill.get("output_path")
        environment = {RECORDED: "1"}
        engine = NBClientEngine
        stated = without_zero(_given(nb))
        if is_session(nb):
            engine = SessionEngine
            notebook = _output(target)
            config = check_parameters(nb, _resumable(notebook))
            environment["PYDEVD_DISABLE_FILE_VALIDATION"] = "1"
            if notebook is not None:
                messages = resume(nb, notebook, config)
                if not messages:
                    check_permission(config)
                    messages = move_aside(notebook)
                notebook.parent.mkdir(parents=True, exist_ok=True)
                for line in messages:
                    print(line, file=sys.stderr)
                environment[RUN_DIR] = str(notebook.with_suffix(""))
            # Hides the kernel's warning about unencrypted TCP sockets, which are only used on this machine.
            options["extra_arguments"] = [*options.get("extra_arguments", []), "--IPKernelApp.log_level=40"]
        # The parameters in a parameter file are given too.
        with suppress(ConfigError):
            name = stated.get(parameter_file.PARAMETER)
            stated |= parameter_file.read(name) if name else {}
        with _environment({**environment, **handover.environment(stated)}):
            return engine.execute_notebook(nb, kernel_name, output_path=output_path, **options)

    @classmethod
    def nb_kernel_name(cls, nb: Any, name: str | None = None) -> Any:
        """Return the name of the notebook's kernel."""
        return NBClientEngine.nb_kernel_name(nb, name)

    @classmethod
    def nb_language(cls, nb: Any, language: str | None = None) -> Any:
        """Return the language of the notebook."""
        return NBClientEngine.nb_language(nb, language)


class Refused(ConfigError, click.ClickException):
    """A run must not start; papermill's command line shows only the message and exits with 1."""

    def __init__(self, message: str) -> None:
        click.ClickException.__init__(self, message)


def is_session(nb: Any) -> bool:
    """Whether a notebook has the flag of a session in its metadata."""
    return bool(nb.metadata.get("voltrade", {}).get("session", False))


def _output(target: str | None) -> Path | None:
    """Return the path of the executed notebook; None if the output isn't a file.

    Raises:
        Refused: The folder of the run can't be named after it.
    """
    if not target or target == "-" or "://" in target:
        return None
    notebook = _origin() / target
    if notebook.suffix != ".ipynb" or notebook.name.startswith("."):
        raise Refused(f"output: must end in .ipynb, after a name that begins with no dot, was {target}")
    return notebook


def _resumable(notebook: Path | None) -> Path | None:
    """Return the folder of the run to resume; None if there is none."""
    folder = notebook.with_suffix("") if notebook is not None else None
    return folder if folder is not None and records.can_be_resumed(folder) else None


def check_parameters(nb: Any, run: Path | None = None) -> Config:
    """Validate the given parameters with the defaults of the notebook's parameters cell; return the settings.

    Args:
        nb: The notebook, with papermill's parameters in its metadata.
        run: Folder of a run to resume, which has its own copy of the rule file.

    Raises:
        Refused: Names each wrong parameter, or says what is wrong with the rule file.
    """
    given = _given(nb)
    try:
        parameters = records.with_begun_threshold({**_defaults(nb), **given}, run)
        return read_parameters(parameters, run=run, explicit=given)
    except ConfigError as error:
        raise Refused(str(error)) from None


def _given(nb: Any) -> dict[str, Any]:
    """Return the parameters that papermill was given for a notebook, by any of its options."""
    given = nb.metadata.papermill.get("parameters") or {}
    return {name: value for name, value in given.items() if not name.startswith("PAPERMILL_")}  # of --inject-paths


def check_permission(config: Config) -> None:
    """Refuse a session without the keys or the permission that its mode needs.

    Raises:
        Refused: Says what is missing, and what to type.
    """
    try:
        check_permitted(config)
    except ConfigError as error:
        raise Refused(str(error)) from None


def _defaults(nb: Any) -> dict[str, object]:
    """Return names and literal values that the cell tagged `parameters` assigns."""
    defaults: dict[str, object] = {}
    for name, value in _assignments(nb):
        with suppress(ValueError):  # computed by the kernel, and checked there
            defaults[name] = ast.literal_eval(value)
    return defaults


def _computed(nb: Any) -> set[str]:
    """Return names whose values the kernel computes."""
    return {name for name, _ in _assignments(nb)} - _defaults(nb).keys()


def _assignments(nb: Any) -> Iterator[tuple[str, ast.expr]]:
    """Yield names and expressions of the cell tagged `parameters`."""
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
                yield target.id, value


def resume(nb: Any, notebook: Path, config: Config) -> list[str]:
    """Check whether the output is a run to resume, by `session.start`; return messages to print, empty if it isn't.

    Raises:
        Refused: A parameter differs from those of the run.
    """
    folder = notebook.with_suffix("")
    if not records.can_be_resumed(folder):
        return []
    if lines := records.changed(records.restored(folder), config, but=_computed(nb) | {"confirmation"}):
        raise Refused("\n".join([*lines, f"for a new run, choose another output, or move {folder.name} away"]))
    return [f"voltrade: {folder.name} was interrupted; resuming it"]


def move_aside(notebook: Path) -> list[str]:
    """Rename an earlier run, its notebook and its folder; return messages to print.

    Both get the name `<start UTC>_NAME`, with a number if that exists. An empty folder is kept for the new run.

    Raises:
        Refused: The output is something else than a run that is over. Nothing was renamed.
    """
    folder = notebook.with_suffix("")
    record = records.read(folder)
    earlier = [path for path in (notebook, folder) if path.is_symlink() or (path.exists() and not _is_empty(path))]
    for path in earlier:
        if why := _why_kept(path, record):
            raise Refused(f"output: {path} is left where it is: {why}; choose another output")
    if not earlier:
        return []
    name = f"{_started(notebook, record):%Y%m%dT%H%M%SZ}_{notebook.stem}"
    stem, count = name, 1
    while any(notebook.with_name(stem + end).exists() for end in ("", notebook.suffix)):
        count += 1
        stem = f"{name}-{count}"
    messages = []
    for path in earlier:
        kept = notebook.with_name(stem + path.suffix)
        path.rename(kept)
        messages.append(f"voltrade: kept the earlier {path.name} as {kept.name}")
    return messages


def _is_empty(path: Path) -> bool:
    return path.is_dir() and not any(path.iterdir())


def _why_kept(path: Path, record: Mapping[str, Any]) -> str:
    """Return why a notebook or folder must not be renamed; empty for a run that is over."""
    if path.is_symlink():
        return "it is a link"
    if records.is_running(record):
        return f"the session that writes it is still running (engine process {record.get('pid')}); stop it first"
    if path.suffix == ".ipynb" and path.is_file():
        return "" if record or _metadata(path) else "it is no notebook that papermill has executed"
    if not record:
        return f"it is no run's folder, with a {records.RECORD}"
    inside = (found.parent for found in path.rglob(records.RECORD))
    running = [found for found in inside if records.is_running(records.read(found))]
    return f"{running[0]} in it is still running" if running else ""


def _metadata(notebook: Path) -> Mapping[str, Any]:
    """Return papermill's metadata of an executed notebook; empty if there is none."""
    with suppress(OSError, ValueError, KeyError, TypeError):
        noted = json.loads(notebook.read_text())["metadata"]["papermill"]
        return noted if isinstance(noted, dict) else {}
    return {}


def _started(notebook: Path, record: Mapping[str, Any]) -> datetime:
    """Return when an earlier run started: from its record, from papermill's metadata, or from its file's time."""
    for text in (record.get("created"), _metadata(notebook).get("start_time")):
        if isinstance(text, str):
            try:
                return datetime.fromisoformat(text).astimezone(UTC)
            except ValueError:
                continue
    existing = notebook if notebook.exists() else notebook.with_suffix("")
    return datetime.fromtimestamp(existing.stat().st_mtime, UTC)


def _origin() -> Path:
    """Return the folder that papermill's relative paths start from; with `--cwd` it isn't the current one."""
    handler = papermill_io.get_handler("local")
    origin = handler.cwd(None)
    handler.cwd(origin)
    return Path(origin or os.getcwd())


@contextmanager
def _environment(values: Mapping[str, str]) -> Iterator[None]:
    """Set environment variables for the kernel that starts meanwhile, and restore them."""
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


# At the end, because importing papermill imports this module for the class above.
from papermill.clientwrap import PapermillNotebookClient  # noqa: E402
from papermill.engines import NBClientEngine, papermill_engines  # noqa: E402
from papermill.iorw import papermill_io  # noqa: E402
from papermill.log import logger  # noqa: E402


class SessionEngine(NBClientEngine):  # type: ignore[misc]
    """Papermill's own engine with another client, which executes the cells."""

    @classmethod
    def execute_managed_notebook(
        cls,
        nb_man: Any,
        kernel_name: str,
        log_output: bool = False,
        stdout_file: Any = None,
        stderr_file: Any = None,
        start_timeout: int = 60,
        execution_timeout: int | None = None,
        **options: Any,
    ) -> Any:
        """Execute the cells of a notebook, as papermill's own engine does."""
        settings = {name: value for name, value in options.items() if name not in ("input_path", "startup_timeout")}
        settings |= {
            "timeout": execution_timeout or options.get("timeout"),
            "startup_timeout": start_timeout,
            "kernel_name": kernel_name,
            "log": logger,
            "log_output": log_output,
            "stdout_file": stdout_file,
            "stderr_file": stderr_file,
        }
        nb_man.nb.metadata["voltrade"].pop(records.NOTED, None)  # from an earlier execution
        try:
            return SessionClient(nb_man, **settings).execute()
        finally:
            note_end(nb_man.nb, Path(os.environ.get(RUN_DIR, os.devnull)))


def note_end(nb: Any, run: Path) -> None:
    """Write the end of the session's journal into the executed notebook, outside the run's folder, for `verify`."""
    record = records.read(run)
    if record.get("state") in records.OVER:
        facts = ("head", "rows", "state", "end_reason")
        nb.metadata["voltrade"][records.NOTED] = {name: record[name] for name in facts if name in record}


class SessionClient(PapermillNotebookClient):  # type: ignore[misc]
    """Sends SIGINT and SIGTERM to the kernel as an interrupt.

    Papermill itself would end the kernel within a second, without any clean-up, and mark every cell as completed. With
    this client the cell that follows the session is interrupted: it asks the engine to stop, and waits for the end.
    """

    _signals = 0

    def execute(self, **options: Any) -> Any:
        """Execute the notebook's cells."""
        with _handled({signal.SIGINT: self._on_signal, signal.SIGTERM: self._on_signal}):
            return super().execute(**options)

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        self._signals += 1
        kernel = getattr(getattr(self.km, "provisioner", None), "pid", None)
        if kernel is None or self._signals >= MAX_SIGNALS:
            raise KeyboardInterrupt
        if records.read(Path(os.environ.get(RUN_DIR, ""))).get("state") in records.OVER:
            # The last cells only show results; an interrupt would leave the notebook incomplete.
            print("voltrade: the session is over; the notebook is being finished", file=sys.stderr)
            return
        print(f"voltrade: {signal.Signals(number).name}: asking the session to stop", file=sys.stderr)
        with suppress(ProcessLookupError):
            os.kill(kernel, signal.SIGINT)


@contextmanager
def _handled(handlers: Mapping[int, Any]) -> Iterator[None]:
    """Set signal handlers meanwhile; only the main thread can."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.signal(number, handler) for number, handler in handlers.items()}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


# Also under the name of papermill's own engine, which would otherwise skip all checks.
for name in (None, "nbclient"):
    papermill_engines.register(name, PapermillEngine)
