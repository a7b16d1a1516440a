"""How a client in a conformance session is told what it may do, and says what it knows: files in a folder.

It runs in the client's environment, with nothing but Python.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

FOLDER = Path(os.environ["CONFORMANCE_FOLDER"])


def permitted(what: str) -> bool:
    """Use up the permission to `enter` or `leave`, if there is one."""
    try:
        (FOLDER / what).unlink()
    except FileNotFoundError:
        return False
    return True


def say(*, position: object, entry_price: object, stops: list[str], exit_price: object) -> None:
    """Say what the client takes for its position (0 for none), the position's price, its stops and the last exit."""
    known = {"position": str(position), "entry_price": str(entry_price), "exit_price": str(exit_price)}
    with (FOLDER / "words.jsonl").open("a") as words:
        words.write(json.dumps({"pid": os.getpid(), **known, "stops": sorted(stops)}) + "\n")
