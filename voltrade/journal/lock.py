"""Who may read and write a journal: its owner alone, and one writer at a time."""

from __future__ import annotations

import fcntl
import os
import stat
from pathlib import Path
from time import sleep

from voltrade.errors import JournalError

LOCK_TRIES, LOCK_AGAIN_S = 10, 0.01
"""How often a writer tries to take the journal's lock, and the pause between two tries."""


def refuse_unsafe(path: Path, *, folder: bool) -> None:
    """Refuse a file or folder that is missing, a link, another user's, or open to others."""
    try:
        status = path.stat() if folder else path.lstat()
    except OSError as error:
        raise JournalError(f"{path}: can't be opened: {error.strerror}") from None
    if not (stat.S_ISDIR if folder else stat.S_ISREG)(status.st_mode):
        raise JournalError(f"{path}: must be a {'folder' if folder else 'regular file'}")
    if status.st_uid != os.getuid():
        raise JournalError(f"{path}: must be owned by user {os.getuid()}, is owned by {status.st_uid}")
    mode = stat.S_IMODE(status.st_mode)
    if mode & 0o077:
        raise JournalError(f"{path}: mode must be {'0700' if folder else '0600'}, was {mode:04o}")


def lock_file(path: Path) -> Path:
    """Return the file beside a journal by which one process at a time writes it."""
    return path.with_name(path.name + ".lock")


def take_lock(path: Path) -> int:
    """Take a lock that ends with the process: a second writer would fork the chain.

    It is shared for a moment with each `is_open_for_writing`, which is over before the next try.
    """
    beside = lock_file(path)
    try:
        lock = os.open(beside, os.O_CREAT | os.O_RDWR | os.O_NOFOLLOW, 0o600)
    except OSError as error:
        raise JournalError(f"{beside}: can't be opened: {error.strerror}") from None
    for left in reversed(range(LOCK_TRIES)):
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return lock
        except OSError:
            if left:
                sleep(LOCK_AGAIN_S)
    os.close(lock)
    raise JournalError(f"{path}: must be written by one process, another one has it open")


def is_open_for_writing(path: Path | str) -> bool:
    """Return whether a process has a journal open for writing; nothing is created, and no writer is refused by it."""
    try:
        with lock_file(Path(path)).open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except FileNotFoundError:
        return False
    except OSError:
        return True
    return False
