"""A server that nobody has heard of: HTTP from the standard library, with knobs in a file of its own format.

    python batching_server.py --listen HOST:PORT --settings FILE [--keep-alive]

Settings are lines `threads = 4` and `work_ms = 5`; each request holds one of the threads for its work.
"""

from __future__ import annotations

import argparse
import json
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--listen", required=True)
    parser.add_argument("--settings", type=Path, required=True)
    parser.add_argument("--keep-alive", action="store_true")
    args = parser.parse_args()
    lines = (line.split("#")[0].split("=") for line in args.settings.read_text().splitlines() if "=" in line)
    settings = {name.strip(): value.strip() for name, value in lines}
    threads = int(settings["threads"])
    if threads > 8:
        sys.exit(f"settings: {threads} threads are more than the 8 that are possible")
    slots = threading.Semaphore(threads)
    work_s = float(settings["work_ms"]) / 1e3

    class Handler(BaseHTTPRequestHandler):
        wbufsize = 1 << 16  # head and body leave together, or the second waits for the first to be acknowledged
        protocol_version = "HTTP/1.1" if args.keep_alive else "HTTP/1.0"

        def do_GET(self) -> None:
            self.answer({"status": "ready"})

        def do_POST(self) -> None:
            self.rfile.read(int(self.headers.get("Content-Length", 0)))
            with slots:
                time.sleep(work_s)
            self.answer({"outputs": [42]})

        def answer(self, body: object) -> None:
            data = json.dumps(body).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)
            self.wfile.flush()

        def log_message(self, format: str, *args: object) -> None:
            pass

    host, _, port = args.listen.rpartition(":")
    ThreadingHTTPServer((host, int(port)), Handler).serve_forever()


if __name__ == "__main__":
    main()
