"""One account, one engine: whoever takes the ledger first trades, and a killed engine lets go of it.

A ledger names a run by its identity, wherever its folder is, and knows which run owns the account now.
"""

from __future__ import annotations

import errno
import json
import multiprocessing
import os
import re
import shutil
import signal
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection
from multiprocessing.synchronize import Barrier
from pathlib import Path

import pytest

from voltrade.engine.account_history import last_final_state
from voltrade.errors import JournalError, SessionError
from voltrade.journal import Journal, last_row
from voltrade.runs.ledger import Ledger
from voltrade.runs.ledger_file import VERSION, FinalState, accounts_home, read_record

RACES = 50
CONTEXT = multiprocessing.get_context("spawn")


def race(root: Path, start: Barrier, answers: Connection) -> None:
    """Run for the ledger of one account after another, at the same instant as the other process does."""
    for number in range(RACES):
        start.wait(30)
        try:
            ledger = Ledger.open(root, f"account {number}", "live", root / f"run of {os.getpid()}")
        except SessionError as error:
            answers.send(str(error))
            start.wait(30)
            continue
        answers.send("taken")
        start.wait(30)  # held until the other one has tried
        ledger.close()


def hold(root: Path, answers: Connection) -> None:
    ledger = Ledger.open(root, "account", "live", root / "killed")
    ledger.begin("killed-id", root / "killed", None)
    answers.send("held")
    answers.recv()


@pytest.fixture
def processes() -> Iterator[list[multiprocessing.process.BaseProcess]]:
    started: list[multiprocessing.process.BaseProcess] = []
    yield started
    for process in started:
        process.kill()  # type: ignore[attr-defined]
        process.join(10)


def test_of_two_engines_at_the_same_instant_one_gets_the_account(
    tmp_path: Path, processes: list[multiprocessing.process.BaseProcess]
) -> None:
    start = CONTEXT.Barrier(2)
    ends = []
    for _ in range(2):
        ours, theirs = CONTEXT.Pipe()
        processes.append(CONTEXT.Process(target=race, args=(tmp_path, start, theirs)))
        processes[-1].start()
        ends.append(ours)
    won = [0, 0]
    for _ in range(RACES):
        answers = []
        for end in ends:
            assert end.poll(30)
            answers.append(end.recv())
        assert sorted(answers)[1] == "taken"
        assert "another session or check uses it" in sorted(answers)[0]
        won[answers.index("taken")] += 1
    assert sum(won) == RACES
    assert len(list(tmp_path.glob("*.lock"))) == RACES


def test_the_ledger_of_a_killed_engine_is_taken_over(
    tmp_path: Path, processes: list[multiprocessing.process.BaseProcess]
) -> None:
    ours, theirs = CONTEXT.Pipe()
    processes.append(CONTEXT.Process(target=hold, args=(tmp_path, theirs)))
    processes[0].start()
    assert ours.poll(30)
    assert ours.recv() == "held"
    with pytest.raises(SessionError, match=f"another session or check uses it, that of {tmp_path / 'killed'}"):
        open_one(tmp_path)
    assert processes[0].pid is not None
    os.kill(processes[0].pid, signal.SIGKILL)
    processes[0].join(10)
    ledger = open_one(tmp_path)
    assert ledger.record is not None
    assert (ledger.record.run, ledger.record.folder, ledger.record.final_state) == (
        "killed-id",
        str(tmp_path / "killed"),
        None,
    )
    ledger.close()


def open_one(root: Path) -> Ledger:
    return Ledger.open(root, "account", "live", root / "some run")


def test_exchanges_accounts_and_modes_have_ledgers_of_their_own(tmp_path: Path) -> None:
    whose = (("one", "live"), ("two", "live"), ("one", "demo"))
    ledgers = [Ledger.open(tmp_path / "accounts", *names, tmp_path) for names in whose]
    for number, ledger in enumerate(ledgers):
        ledger.begin(str(number), tmp_path / str(number), None)
        ledger.save_final_state("head", {"wallet": number})
        ledger.close()
    again = Ledger.open(tmp_path / "accounts", "two", "live", tmp_path)
    assert again.record is not None
    assert again.record.final_state == FinalState("1", "head", {"wallet": 1})
    again.close()
    files = list((tmp_path / "accounts").iterdir())
    assert {path.stat().st_mode & 0o777 for path in files} == {0o600}
    assert (tmp_path / "accounts").stat().st_mode & 0o777 == 0o700


def test_a_ledger_of_an_earlier_version_is_read_by_its_names(tmp_path: Path) -> None:
    ledger = open_one(tmp_path)
    ledger.begin("id", tmp_path, None)
    ledger.save_final_state("head", {"wallet": 1})
    ledger.close()
    [path] = tmp_path.glob("*.json")
    earlier = json.loads(path.read_text()) | {"version": VERSION - 1, "dropped": 5}
    del earlier["previous_run"]
    path.write_text(json.dumps(earlier))
    ledger = open_one(tmp_path)
    assert ledger.record is not None
    assert (ledger.unread, ledger.record.version) == ("", VERSION)
    assert ledger.record.final_state == FinalState("id", "head", {"wallet": 1})
    ledger.close()


def test_a_ledger_that_cannot_be_read_is_told_and_kept_beside_the_next(tmp_path: Path) -> None:
    """The next session is refused, or looks after a position; what the ledger says is lost in neither case."""
    ledger = open_one(tmp_path)
    ledger.begin("id", tmp_path, None)
    ledger.close()
    [path] = tmp_path.glob("*.json")
    whole = path.read_text()
    earlier = {"version": 1, "account": "account", "mode": "live", "run": "id", "folder": "", "left": None, "after": ""}
    changed = [json.dumps(json.loads(whole) | one) for one in ({"version": VERSION + 1}, {"run": 5}, {"extra": ""})]
    for text in (whole[:-3], "", "[]", json.dumps(earlier), *changed):
        path.write_text(text)
        ledger = open_one(tmp_path)
        assert ledger.record is None
        assert re.search(r"must be an account's ledger|version must be .* or less, was", ledger.unread)
        assert last_final_state(ledger, "next", tmp_path) == FinalState("", "", {})
        with pytest.raises(SessionError, match="give up the limits"):  # whose rows were noted last isn't known
            ledger.check_run("id", tmp_path, is_new=False)
        assert (path.read_text(), ledger.check_run("next", tmp_path, is_new=True)) == (text, "")
        ledger.begin("next", tmp_path, FinalState("", "", {}))
        assert (path.with_suffix(".unread").read_text(), ledger.unread) == (text, "")
        ledger.close()


def test_a_ledger_that_cannot_be_read_stays_where_the_next_cannot_be_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else the next session found none, and began with fresh limits."""
    ledger = open_one(tmp_path)
    ledger.begin("id", tmp_path, None)
    ledger.close()
    [path] = tmp_path.glob("*.json")
    path.write_text("[]")
    ledger = open_one(tmp_path)

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as change:
        change.setattr("voltrade.runs.ledger.write_record", full)
        with pytest.raises(OSError, match="No space"):
            ledger.begin("next", tmp_path, FinalState("", "", {}))
    ledger.close()
    assert open_one(tmp_path).unread


def test_the_owner_of_an_account_whose_ledger_cannot_be_read_looks_after_it(tmp_path: Path) -> None:
    ledger = open_one(tmp_path)
    ledger.begin("id", tmp_path, None)
    ledger.note_position(3, "head")
    ledger.close()
    [path] = tmp_path.glob("*.json")
    path.write_text("")
    ledger = open_one(tmp_path)
    assert "must be an account's ledger" in ledger.check_run("id", tmp_path, is_new=False)
    ledger.close()


@pytest.mark.parametrize(("name", "value"), [("account", "another"), ("mode", "demo")])
def test_the_ledger_of_another_account_is_refused_and_let_go_of(tmp_path: Path, name: str, value: str) -> None:
    ledger = open_one(tmp_path)
    ledger.begin("id", tmp_path, None)
    ledger.close()
    [path] = tmp_path.glob("*.json")
    whole = path.read_text()
    path.write_text(json.dumps(json.loads(whole) | {name: value}))
    for _ in range(2):  # the lock is not kept
        with pytest.raises(SessionError, match=f"{name} must be .*, was"):
            open_one(tmp_path)
    path.write_text(whole)
    open_one(tmp_path).close()


def test_a_ledger_that_others_can_change_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Fault case G9: a ledger folder of another owner, of mode 0777, was believed."""
    root = tmp_path / "accounts"
    ledger = open_one(root)
    ledger.begin("id", tmp_path, None)
    ledger.close()
    [path] = root.glob("*.json")
    for open_to_others, mode in ((root, 0o777), (root, 0o750), (path, 0o644)):
        before = open_to_others.stat().st_mode & 0o777
        open_to_others.chmod(mode)
        with pytest.raises(JournalError, match="mode must be"):
            open_one(root)
        open_to_others.chmod(before)
    with monkeypatch.context() as patch:
        patch.setattr(os, "getuid", lambda: root.stat().st_uid + 1)
        with pytest.raises(JournalError, match="must be owned by"):
            open_one(root)
    open_one(root).close()


def test_the_folder_of_ledgers_depends_on_no_working_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Fault case E1: another working directory, output or store made another ledger."""
    assert accounts_home({"VOLTRADE_STATE": "/var/lib/voltrade"}) == Path("/var/lib/voltrade/accounts")
    for relative in ("state", "./state", ".."):
        with pytest.raises(SessionError, match="VOLTRADE_STATE: must be an absolute path"):
            accounts_home({"VOLTRADE_STATE": relative})
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "xdg"))
    monkeypatch.setenv("HOME", str(tmp_path))
    found = set()
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        monkeypatch.chdir(tmp_path / name)
        monkeypatch.setenv("VOLTRADE_STORE", str(tmp_path / name))
        found.add(accounts_home({"VOLTRADE_STATE": ""}))
    [home] = found
    assert home.is_relative_to(tmp_path)
    assert home.parts[-2:] == ("voltrade", "accounts")


def test_a_folder_of_ledgers_behind_a_link_is_the_same_one(tmp_path: Path) -> None:
    """Fault case E1, a link."""
    (tmp_path / "linked").symlink_to("real")
    (tmp_path / "real").mkdir(mode=0o700)
    held = open_one(tmp_path / "real")
    with pytest.raises(SessionError, match="another session or check uses it"):
        open_one(tmp_path / "linked")
    held.close()


# --- which run may go on ----------------------------------------------------------------------------------------------


def a_run(folder: Path, run: str, rows: int = 3) -> Path:
    folder.mkdir(mode=0o700, parents=True)
    with Journal.create(folder / "journal.db", run) as made:
        for number in range(rows):
            made.append("Bar", number, {"number": number, "name": folder.name})
    return folder


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    opened = open_one(tmp_path / "accounts")
    yield opened
    opened.close()


def rename(run: Path) -> Path:
    return run.rename(run.with_name("20260301T090000Z_today"))


def move_into_a_folder(run: Path) -> Path:
    (run.parent / "old").mkdir()
    return run.rename(run.parent / "old/today")


def move_beside_the_folder(run: Path) -> Path:
    (run.parent.parent / "archive").mkdir()
    return run.rename(run.parent.parent / "archive/today")


def copy_and_delete(run: Path) -> Path:
    copied = Path(shutil.copytree(run, run.with_name("copied")))
    shutil.rmtree(run)
    return copied


def leave_it(run: Path) -> Path:
    return run


@pytest.mark.parametrize("move", [leave_it, rename, move_into_a_folder, move_beside_the_folder, copy_and_delete])
def test_the_journal_of_a_run_is_found_wherever_its_folder_was_moved(
    ledger: Ledger, tmp_path: Path, move: Callable[[Path], Path]
) -> None:
    """Fault case E2: the ledger named a path, where another run may be now."""
    ledger.begin("first", a_run(tmp_path / "runs/today", "first"), None)
    a_run(tmp_path / "runs/other", "other")
    moved = move(tmp_path / "runs/today")
    near = tmp_path / "runs/today"
    if moved != near:
        a_run(near, "second")
    assert ledger.find_last_journal(near) == moved / "journal.db"


def test_the_journal_of_a_run_is_found_beside_the_next_one(ledger: Ledger, tmp_path: Path) -> None:
    ledger.begin("first", a_run(tmp_path / "a/b/c/today", "first"), None)
    (tmp_path / "elsewhere/runs").mkdir(parents=True)
    (tmp_path / "a/b/c/today").rename(tmp_path / "elsewhere/runs/first")
    found = ledger.find_last_journal(tmp_path / "elsewhere/runs/second")
    assert found == tmp_path / "elsewhere/runs/first/journal.db"


def test_of_copies_the_one_that_is_further_on_counts(ledger: Ledger, tmp_path: Path) -> None:
    ledger.begin("first", a_run(tmp_path / "runs/today", "first"), None)
    shutil.copytree(tmp_path / "runs/today", tmp_path / "runs/copied")
    with Journal.open(tmp_path / "runs/copied/journal.db") as more:
        more.append("Bar", 9, {"number": 9})
    assert ledger.find_last_journal(tmp_path / "runs/next") == tmp_path / "runs/copied/journal.db"


@pytest.mark.parametrize("left_behind", ["nothing", "another run", "open to others"])
def test_a_run_that_is_gone_refuses_the_next_one_by_name(ledger: Ledger, tmp_path: Path, left_behind: str) -> None:
    """Fault case E2: the next run began with fresh limits instead."""
    ledger.begin("first", a_run(tmp_path / "runs/today", "first"), None)
    if left_behind == "open to others":
        (tmp_path / "runs/today").chmod(0o755)
    else:
        shutil.rmtree(tmp_path / "runs/today")
    if left_behind == "another run":
        a_run(tmp_path / "runs/today", "second")
    with pytest.raises(SessionError) as refused:
        ledger.find_last_journal(tmp_path / "runs/today")
    [path] = (tmp_path / "accounts").glob("*.json")
    for told in ("run first was interrupted in", "put that folder back", f"moving {path} away"):
        assert told in str(refused.value)


def test_a_run_that_another_one_has_followed_does_not_go_on(ledger: Ledger, tmp_path: Path) -> None:
    """Fault case E4, a copy of its folder too, whether the newer one has ended or not."""
    first, second = a_run(tmp_path / "runs/first", "first"), a_run(tmp_path / "runs/second", "second")
    copied = Path(shutil.copytree(first, tmp_path / "runs/copied"))
    ledger.begin("first", first, None)
    ledger.check_run("first", first, is_new=False)
    ledger.begin("second", second, FinalState("first", "head", {}))
    for _ in range(2):
        for folder in (first, copied):
            with pytest.raises(SessionError, match=rf"names run second \({second}\) as the one that owns the account"):
                ledger.check_run("first", folder, is_new=False)
        ledger.check_run("first", first, is_new=True)  # it has done nothing yet: it begins, after the second
        ledger.check_run("second", second, is_new=False)
        ledger.save_final_state(last_row(second / "journal.db")[1], {})


def test_of_two_copies_the_older_one_does_not_go_on(ledger: Ledger, tmp_path: Path) -> None:
    """Fault case E4: what the other copy has sent is not known to it."""
    run = a_run(tmp_path / "runs/run", "id")
    older = Path(shutil.copytree(run, tmp_path / "runs/older"))
    ledger.begin("id", run, None)
    ledger.check_run("id", older, is_new=False)  # as far on as the other
    with Journal.open(run / "journal.db") as more:
        more.append("Bar", 9, {"number": 9})
    with pytest.raises(SessionError, match=f"another copy of this run is further on: {run}"):
        ledger.check_run("id", older, is_new=False)
    ledger.save_final_state(last_row(run / "journal.db")[1], {})
    shutil.rmtree(run)
    with pytest.raises(SessionError, match="it is an older copy, or rows were lost"):
        ledger.check_run("id", older, is_new=False)


def written(ledger: Ledger, run: Path, rows: int) -> None:
    """Let a run write more, as an engine does that holds the ledger."""
    with Journal.open(run / "journal.db") as more:
        more.on_commit = ledger.note_position
        for number in range(rows):
            more.append("Bar", number, {"number": number, "later": True})


@pytest.mark.parametrize("who", ["the run itself", "the next run"])
def test_an_older_backup_that_was_put_back_is_noticed(ledger: Ledger, tmp_path: Path, who: str) -> None:
    """Fault case E5, sibling: nothing tells it from the run's folder but what the ledger has heard of since.

    Nobody else looks after the run's position: it goes on, though only to do that.
    """
    run = a_run(tmp_path / "runs/run", "id")
    backup = Path(shutil.copytree(run, tmp_path / "backup"))
    ledger.begin("id", run, None)
    written(ledger, run, 2)
    head = last_row(run / "journal.db")[1]
    ledger.check_run("id", run, is_new=False)
    assert ledger.find_last_journal(tmp_path / "runs/next") == run / "journal.db"
    shutil.rmtree(run)
    backup.rename(run)
    told = f"the journal in {run} must have row 5 with the hash {head}, ends with row 3"
    if who == "the run itself":
        assert told in ledger.check_run("id", run, is_new=False)
        return
    with pytest.raises(SessionError, match="put the newer one back, or resume that run") as refused:
        ledger.find_last_journal(tmp_path / "runs/next")
    assert told in str(refused.value)


def test_a_backup_that_went_its_own_way_is_noticed(ledger: Ledger, tmp_path: Path) -> None:
    """As many rows and more, but not the ones that the ledger has heard of."""
    run = a_run(tmp_path / "runs/run", "id")
    backup = Path(shutil.copytree(run, tmp_path / "backup"))
    ledger.begin("id", run, None)
    written(ledger, run, 2)
    shutil.rmtree(run)
    backup.rename(run)
    with Journal.open(run / "journal.db") as other:
        for number in range(4):
            other.append("Bar", number, {"number": number})
    assert "must have row 5 with the hash" in ledger.check_run("id", run, is_new=False)


@pytest.mark.parametrize("damage", ["cut short", "emptied", "gone"])
def test_a_journal_that_can_not_be_read_is_noticed(ledger: Ledger, tmp_path: Path, damage: str) -> None:
    """Fault case E5: the run that it belongs to goes on to look after the account; another one is refused."""
    run = a_run(tmp_path / "runs/run", "id")
    ledger.begin("id", run, None)
    journal = run / "journal.db"
    if damage == "gone":
        journal.unlink()
    else:
        journal.write_bytes(journal.read_bytes()[:1_000] if damage == "cut short" else b"")
    assert str(journal) in ledger.check_run("id", run, is_new=False)
    with pytest.raises(SessionError, match="names run id"):
        ledger.check_run("other", run, is_new=False)


def test_a_journal_that_is_further_on_than_the_ledger_heard_goes_on(ledger: Ledger, tmp_path: Path) -> None:
    """Killed between its commit and the note of it; or the note of another run is still there."""
    run = a_run(tmp_path / "runs/run", "id")
    ledger.begin("id", run, None)
    written(ledger, run, 2)
    with Journal.open(run / "journal.db") as more:
        more.append("Bar", 9, {"number": 9})
    ledger.check_run("id", run, is_new=False)
    second = a_run(tmp_path / "runs/second", "second", rows=1)
    ledger.begin("second", second, None)
    ledger.check_run("second", second, is_new=False)


def test_an_engine_whose_lock_was_deleted_takes_it_again(tmp_path: Path) -> None:
    """A second engine was let in by the new file."""
    ledger = open_one(tmp_path / "accounts")
    run = a_run(tmp_path / "runs/run", "id")
    ledger.begin("id", run, None)
    [lock] = (tmp_path / "accounts").glob("*.lock")
    lock.unlink()
    written(ledger, run, 1)
    with pytest.raises(
        SessionError, match=f"another session or check uses it, that of {tmp_path / 'accounts/some run'}"
    ):
        open_one(tmp_path / "accounts")
    ledger.close()
    open_one(tmp_path / "accounts").close()


def test_a_second_engine_sees_the_first_though_its_lock_was_deleted(tmp_path: Path) -> None:
    """Before the first one has noticed: its journal is open, and the first one goes on undisturbed."""
    first = open_one(tmp_path / "accounts")
    run = a_run(tmp_path / "runs/run", "id")
    first.begin("id", run, None)
    with Journal.open(run / "journal.db") as journal:
        [lock] = (tmp_path / "accounts").glob("*.lock")
        lock.unlink()
        second = open_one(tmp_path / "accounts")
        with pytest.raises(SessionError, match=f"another session or check uses it, that of {run}"):
            second.find_last_journal(tmp_path / "runs/second")
        second.close()
        journal.on_commit = first.note_position
        journal.append("Bar", 9, {"number": 9})
    first.close()


@pytest.mark.parametrize("trouble", ["folder gone", "disk full", "lock unreadable"])
def test_files_that_cannot_be_kept_end_no_engine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, trouble: str) -> None:
    """Whoever trades has a position to tend: it is told once, and goes on to note when that works again."""
    accounts, away = tmp_path / "accounts", tmp_path / "away"
    ledger = open_one(accounts)
    told: list[str] = []
    ledger.on_write_failure = told.append
    run = a_run(tmp_path / "runs/run", "id")
    ledger.begin("id", run, None)
    written(ledger, run, 1)

    def failing(*given: object, **named: object) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as change:
        match trouble:
            case "folder gone":
                accounts.rename(away)
            case "disk full":
                change.setattr("voltrade.runs.ledger_file.os.pwrite", failing)
            case _:
                change.setattr("voltrade.runs.account_lock.is_same_file", failing)
        written(ledger, run, 1)
        written(ledger, run, 1)
    assert told == [f"LEDGER: {os.strerror(errno.ENOENT if trouble == 'folder gone' else errno.ENOSPC)}"]
    if trouble == "folder gone":
        away.rename(accounts)
    written(ledger, run, 1)
    [noted] = accounts.glob("*.reached")
    assert json.loads(noted.read_text())["rows"] == last_row(run / "journal.db")[0] == 7
    with pytest.raises(SessionError, match="another session or check uses it"):
        open_one(accounts)
    ledger.close()


def test_the_owner_goes_on_though_the_disk_is_full(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Fault case F1: the ledger names it already. Any other run, and its own saved state, must be written."""
    ledger, run = open_one(tmp_path / "accounts"), a_run(tmp_path / "runs/run", "id")
    ledger.begin("id", run, None)

    def full(*given: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as change:
        change.setattr("voltrade.runs.ledger.write_record", full)
        ledger.begin("id", run, None)
        with pytest.raises(OSError, match="No space left"):
            ledger.begin("another", run, None)
    ledger.save_final_state("aa", {})
    ledger.begin("id", run, None)
    assert ledger.record is not None
    assert ledger.record.final_state is None
    ledger.close()


def test_an_older_ledger_that_was_put_back_is_refused(tmp_path: Path) -> None:
    """The refusals advise to move the ledger away; a copy of before the last run knows nothing of its limits."""
    accounts = tmp_path / "accounts"
    first, second = a_run(tmp_path / "runs/first", "first"), a_run(tmp_path / "runs/second", "second", rows=1)
    ledger = open_one(accounts)
    ledger.begin("first", first, None)
    written(ledger, first, 1)
    ledger.save_final_state(last_row(first / "journal.db")[1], {})
    [path] = accounts.glob("*.json")
    older = path.read_bytes()
    ledger.begin("second", second, None)
    ledger.check_run("second", second, is_new=False)  # killed before its first commit that was noted
    written(ledger, second, 1)
    ledger.close()
    path.write_bytes(older)
    ledger = open_one(accounts)
    with pytest.raises(SessionError, match="names run first, though run second has traded it since") as refused:
        ledger.check_run("third", tmp_path / "runs/third", is_new=True)
    assert f"moving {path} away" in str(refused.value)
    ledger.close()
    path.unlink()
    ledger = open_one(accounts)
    ledger.check_run("third", tmp_path / "runs/third", is_new=True)
    ledger.close()


def test_an_engine_that_lost_its_account_writes_nothing_more(tmp_path: Path) -> None:
    first = open_one(tmp_path / "accounts")
    run = a_run(tmp_path / "runs/run", "id")
    first.begin("id", run, None)
    [lock] = (tmp_path / "accounts").glob("*.lock")
    lock.unlink()
    second = open_one(tmp_path / "accounts")
    writes: list[Callable[[], None]] = [
        lambda: first.note_position(4, "head"),
        lambda: first.save_final_state("head", {}),
        lambda: first.begin("id", run, None),
    ]
    for write in writes:
        with pytest.raises(SessionError, match="another session or check uses it"):
            write()
    second.begin("second", run, None)
    first.close()
    assert read_record(second._path, "account", "live") == second.record
    second.close()


def test_a_copy_from_before_the_run_did_anything_does_not_begin_it_anew(ledger: Ledger, tmp_path: Path) -> None:
    """Fault case E4: it was copied while it loaded its history, and the other copy has traded since."""
    run = a_run(tmp_path / "runs/run", "id", rows=1)
    early = Path(shutil.copytree(run, tmp_path / "runs/early"))
    ledger.begin("id", run, None)
    ledger.check_run("id", early, is_new=True)  # as far on as the other
    with Journal.open(run / "journal.db") as more:
        more.append("Bar", 9, {"number": 9})
    with pytest.raises(SessionError, match=f"another copy of this run is further on: {run}"):
        ledger.check_run("id", early, is_new=True)


def test_a_run_that_learnt_nothing_leaves_what_it_went_on_from(ledger: Ledger, tmp_path: Path) -> None:
    ledger.begin("second", tmp_path, FinalState("first", "its head", {"wallet": 5}))
    ledger.save_final_state("head", None)
    assert ledger.record is not None
    assert ledger.record.final_state == FinalState("second", "head", {"wallet": 5})
