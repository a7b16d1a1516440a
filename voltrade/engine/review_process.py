"""Writes the review of a run in a separate process, which loads the libraries for charts."""

from __future__ import annotations

import logging
import subprocess
import sys
from pathlib import Path

log = logging.getLogger(__name__)

REVIEW_S = 120
"""Longest time that a review may take."""


def write_review(run_dir: Path) -> bool:
    """Write the review of a run into its folder; return whether it was written."""
    command = [sys.executable, "-m", "voltrade", "review", str(run_dir)]
    try:
        done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=REVIEW_S)
    except subprocess.TimeoutExpired:
        log.warning("the review was not written within %d s", REVIEW_S)
        return False
    if done.returncode:
        log.warning("the review could not be written: %s", done.stderr[-2000:])
    return not done.returncode
