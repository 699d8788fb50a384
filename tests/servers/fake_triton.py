"""Answers as a Triton does on its health endpoints; ``FAKE_TRITON`` says how it misbehaves.

``ready``, ``never_ready``, ``silent_exit``, or the path of a log, which it writes before it exits
with 1. It takes its port once the file ``FAKE_TRITON_GATE`` is there, where that is set. With
``FAKE_TRITON_BUSY`` a request runs in it for ever.
"""

import json
import os
import sys
import time
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

MODEL = {"name": "ensemble", "version": "1", "state": "READY"}


class Handler(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self._answer({}, 200 if os.environ["FAKE_TRITON"] == "ready" else 400)

    def do_POST(self) -> None:
        if self.path.endswith("/unload"):
            # FAKE_TRITON_BUSY: a request that never ends.
            MODEL["state"] = "UNLOADING" if "FAKE_TRITON_BUSY" in os.environ else "UNAVAILABLE"
        self._answer([MODEL], 200)

    def _answer(self, document: object, status: int) -> None:
        body = json.dumps(document).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """Keep quiet."""


def main() -> None:
    flags = dict(word[2:].split("=", 1) for word in sys.argv[1:] if "=" in word)
    mode = os.environ["FAKE_TRITON"]
    if mode == "silent_exit":
        sys.exit(9)
    if mode not in ("ready", "never_ready"):
        print(Path(mode).read_text(), end="", flush=True)
        sys.exit(1)
    print('I "loading: tensorrt_llm:1"', flush=True)
    gate = os.environ.get("FAKE_TRITON_GATE")
    while gate and not Path(gate).exists():
        time.sleep(0.01)
    HTTPServer((flags["http-address"], int(flags["http-port"])), Handler).serve_forever()


if __name__ == "__main__":
    main()
