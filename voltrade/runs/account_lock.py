"""A lock file that lets one engine at a time trade an account."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

from voltrade.errors import SessionError


class AccountInUse(SessionError):
    """Another engine trades the account."""


class AccountLock:
    """A locked file; the operating system releases it when the process ends, however it ends."""

    def __init__(self, path: Path, account: str, holder: str = "") -> None:
        """Lock the file, which is made where it doesn't exist.

        Args:
            path: The lock file.
            account: Name of the account in error messages.
            holder: Folder of the run that takes the lock; it is shown to an engine that is refused.

        Raises:
            AccountInUse: Another engine has the lock.
            SessionError: The file can't be opened.
        """
        self._path, self._account, self._holder = path, account, holder
        try:
            self._file = self._acquire()
        except OSError as error:
            raise SessionError(f"{path}: can't be opened: {error.strerror}") from None

    def keep(self) -> None:
        """Take the lock again where its file was deleted, because another engine could lock a new file otherwise.

        Raises:
            AccountInUse: Another engine has taken the lock since.
            OSError: The file can't be opened.
        """
        if is_same_file(self._file, self._path):
            return
        fresh = self._acquire()
        os.close(self._file)
        self._file = fresh

    def close(self) -> None:
        """Release the lock."""
        os.close(self._file)

    def __enter__(self) -> AccountLock:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def _acquire(self) -> int:
        file = open_private(self._path)
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if not is_same_file(file, self._path):  # deleted between the two calls, and perhaps made again
                raise AccountInUse(f"account {self._account}: its lock was deleted while it was taken; try again")
            os.ftruncate(file, 0)
            os.pwrite(file, os.fsencode(self._holder), 0)
        except BlockingIOError:
            other = os.fsdecode(os.pread(file, 4096, 0))
            os.close(file)
            where = f", that of {other}" if other else ""
            raise AccountInUse(f"account {self._account}: another session or check uses it{where}") from None
        except BaseException:
            os.close(file)
            raise
        return file


def open_private(path: Path) -> int:
    """Open a file for reading and writing that only its user can read; return its descriptor."""
    return os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)


def is_same_file(file: int, path: Path) -> bool:
    """Whether a path still leads to an open file."""
    try:
        return os.path.samestat(os.fstat(file), os.stat(path, follow_symlinks=False))
    except FileNotFoundError:
        return False
