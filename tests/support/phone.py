"""A server that takes notifications, as a phone's service does."""

from __future__ import annotations

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

CANARY = "c4n4ry70k3n0f73l3gr4m"
"""Stands in the address for what nobody else may see."""


class Phone:
    """A server that takes notifications, or keeps them waiting."""

    def __init__(self) -> None:
        self.got: list[dict[str, Any]] = []
        self.hangs = threading.Event()
        self.goes_on = threading.Event()
        phone = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                if phone.hangs.is_set():
                    phone.goes_on.wait(30)
                    return
                phone.got.append({**body, "path": self.path})
                self.send_response(200)
                self.end_headers()

            def log_message(self, *_: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever)
        self._thread.start()
        self.address = f"json://127.0.0.1:{self._server.server_port}/{CANARY}"

    def close(self) -> None:
        self.goes_on.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    @property
    def lines(self) -> list[str]:
        return [line for message in self.got for line in message["message"].splitlines()]
