"""The errors voltrade raises on purpose.

    VoltradeError
    ├── ConfigError      a setting or parameter is refused; nothing was sent or written
    ├── DataError        a tape, archive or message can't be trusted
    ├── JournalError     the audit log is broken, foreign or can't be written
    ├── VenueError       the exchange can't be talked to in the way we must
    └── SessionError     the engine can't start, be reached, or ended badly

Each message names the field, the rule and the value. Refusals of an order, by our own gates or by the exchange, are
values (`model.Refusal`, `model.Reply`), never exceptions.
"""

from __future__ import annotations


class VoltradeError(Exception):
    """Base of every error that voltrade raises on purpose."""


class ConfigError(VoltradeError):
    """A setting is refused: the message names the setting, the rule and the value."""


class DataError(VoltradeError):
    """Market data breaks a rule: the message names the file or message, the row and the rule."""


class JournalError(VoltradeError):
    """The journal is broken, belongs to something else, or can't be written."""


class VenueError(VoltradeError):
    """The exchange answered in a way that makes it unsafe to go on."""


class SessionError(VoltradeError):
    """The engine process could not be started, reached, or did not end as it should."""
