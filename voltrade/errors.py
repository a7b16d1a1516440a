"""The exceptions that voltrade raises.

    VoltradeError
    ├── ConfigError      a setting or parameter is refused; nothing was sent or written
    ├── DataError        a tape, an archive or a message is invalid
    ├── JournalError     the journal is of another run, or can't be written
    │   └── DamagedJournal   it can't be read any more
    ├── ExchangeError    the exchange can't be reached, refuses a request, or its answer or events can't be used
    └── SessionError     the engine couldn't be started or reached, or ended with an error

Each message names the field, the rule and the value. A refused order is no exception: a refusal by a gate is a
`model.Refusal`, a refusal by the exchange a `model.Reply`.
"""

from __future__ import annotations


class VoltradeError(Exception):
    """Base class of all exceptions that voltrade raises."""


class ConfigError(VoltradeError):
    """A setting is refused. The message names the setting, the rule and the value."""


class DataError(VoltradeError):
    """Data are invalid. The message names the file or message, the row and the rule."""


class JournalError(VoltradeError):
    """The journal is broken, belongs to another run, or can't be written."""


class DamagedJournal(JournalError):
    """The journal's file is gone, cut short, or has other bytes than were written: rows are lost."""


class ExchangeError(VoltradeError):
    """The exchange can't be reached, refuses a request, or its answer or events can't be used.

    Raised for Binance and for the simulated venue alike.

    Attributes:
        item: The row of the start-up table that it belongs to.
        says: What has happened, in a sentence; empty where the message says all.
        wanted: What to do, in words that follow "must be"; empty where nothing is known.
    """

    def __init__(self, text: str, item: str = "exchange", says: str = "", wanted: str = "") -> None:
        super().__init__(text)
        self.item, self.says, self.wanted = item, says, wanted


class SessionError(VoltradeError):
    """The engine process could not be started or reached, or ended with an error."""
