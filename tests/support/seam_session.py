"""Trades a session with the package that comes first on the path: `seam_session.py RUN`; its engine is this process."""

from __future__ import annotations

import sys

from voltrade.__main__ import main

if __name__ == "__main__":
    assert main(["engine", *sys.argv[1:]]) == 0
