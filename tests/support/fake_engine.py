"""An engine that trades nothing: it writes a made-up run's journal and speaks over the socket as the real one does.

`python tests/support/fake_engine.py RUN_DIR`, under a guardian; the seed says how it behaves: see FAILS, REFUSES, DIES,
WAITS, REVIVES.
"""

from __future__ import annotations

import json
import os
import socket
import socketserver
import sys
import tempfile
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter
from support.builders import an_instrument
from support.made_run import made_run

from voltrade.config import Config
from voltrade.engine.guardian import LOCK
from voltrade.journal import Journal
from voltrade.model import Instrument

FAILS = 101
"""Says that it failed, before it runs."""
REFUSES = 105
"""Says that its start-up table refused the start."""
DIES = 102
"""Is gone in the middle of the session, without an end."""
WAITS = 103
"""Has written all, and goes on until it is asked to stop."""
REVIVES = 104
"""As WAITS; and the guardian may start it again, which then goes on with its journal."""


class Engine:
    def __init__(self, run_dir: Path) -> None:
        self.run_dir = run_dir
        self.record: dict[str, Any] = json.loads((run_dir / "run.json").read_text())
        self.config = Config.from_parameters(self.record["parameters"])
        self.progress = 0.0
        self.stop_reason = ""
        self.leases = 0

    def update(self, **facts: Any) -> None:
        self.record |= facts
        fresh = self.run_dir / "run.tmp"
        fresh.write_text(json.dumps(self.record))
        fresh.replace(self.run_dir / "run.json")

    def answer(self, ask: dict[str, Any]) -> dict[str, Any]:
        if ask["op"] == "stop":
            self.stop_reason = ask["reason"]
        self.leases += ask["op"] == "lease"
        return {
            "state": self.record["state"],
            "progress": self.progress,
            "mode": "sim",
            "breaker": "ACTIVE",
            "leases": self.leases,
        }

    def run(self) -> None:
        seed = self.config.session.seed
        if seed == FAILS:
            print("a last word", flush=True)  # before the notebook learns that it has failed
            self.update(state="failed", error="the venue did not start")
            sys.exit(1)
        if seed == REFUSES:
            right = {"item": "endpoint", "found": "https://fapi.binance.com", "wanted": "", "ok": True}
            wrong = {"item": "leverage", "found": "20", "wanted": "5 (-p apply_account_settings True)", "ok": False}
            self.update(state="failed", error="leverage: 20, must be 5", checks=[right, wrong])
            sys.exit(1)
        path = self.run_dir / "journal.db"
        if path.exists() and seed == REVIVES:
            with Journal.open(path) as journal:
                self.begin_to_listen()
                self.wait_and_end(journal, seed, 0)
            return
        with Journal.create(path) as journal:
            self.trade(journal, seed)

    def begin_to_listen(self) -> None:
        lock = str(self.run_dir / LOCK) if self.config.session.seed == REVIVES else ""
        self.update(state="running", begun=bool(lock), guardian=lock, pid=os.getpid(), socket=self.listen())

    def trade(self, journal: Journal, seed: int) -> None:
        instrument = an_instrument()
        start = {
            "config": self.config.model_dump(mode="json"),
            "instrument": TypeAdapter(Instrument).dump_python(instrument, mode="json"),
            "epoch": self.record["epoch"],
            "parameters": self.record["parameters"],
        }
        journal.append("Start", 0, start)
        journal.commit()
        self.begin_to_listen()
        rows = made_run(instrument, bar_count=120).rows
        for number, (at, body) in enumerate(rows):
            if isinstance(body, dict):
                journal.append("Bar", at, body)
            else:
                journal.append_fact(body, at)
            if number % 50 == 0:
                journal.commit()
                time.sleep(0.1)
            self.progress = number / len(rows)
            if seed == DIES and number == len(rows) // 2:
                os._exit(9)
        journal.commit()
        self.wait_and_end(journal, seed, at)

    def wait_and_end(self, journal: Journal, seed: int, at: int) -> None:
        while seed in (WAITS, REVIVES) and not self.stop_reason:
            time.sleep(0.01)
        reason = self.stop_reason or "TAPE_END"
        journal.append("End", at, {"reason": reason})
        journal.commit()
        self.update(state="ended", end_reason=reason, head=journal.head, rows=journal.seq, leases=self.leases)

    def listen(self) -> str:
        engine = self

        class Handler(socketserver.StreamRequestHandler):
            def handle(self) -> None:
                for line in self.rfile:
                    self.wfile.write(json.dumps(engine.answer(json.loads(line))).encode() + b"\n")

        path = str(Path(tempfile.mkdtemp(prefix="vt-")) / "s")
        server = socketserver.ThreadingUnixStreamServer(path, Handler)
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, daemon=True).start()
        return path


def live(line: socket.socket) -> None:
    """Give the guardian signs of life, and end with it: no engine outlives its test."""
    with suppress(OSError):
        while True:
            line.send(b"\n")
            if not line.recv(100):
                break
            time.sleep(0.2)
    os._exit(8)


if __name__ == "__main__":
    told = json.loads(os.environ["VOLTRADE_GUARDIAN"])
    threading.Thread(target=live, args=[socket.socket(fileno=told["fd"])], daemon=True).start()
    Engine(Path(sys.argv[1])).run()
