"""Logging that never holds up trading: a separate thread writes the engine's log."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from logging.handlers import QueueHandler, QueueListener
from queue import SimpleQueue


@contextmanager
def log_in_background() -> Iterator[None]:
    """Write log records to stderr in a thread, so that no order waits for a slow disk."""
    records: SimpleQueue[logging.LogRecord] = SimpleQueue()
    handler, listener = QueueHandler(records), QueueListener(records, logging.StreamHandler())
    logging.getLogger().addHandler(handler)
    listener.start()
    try:
        yield
    finally:
        logging.getLogger().removeHandler(handler)
        listener.stop()
