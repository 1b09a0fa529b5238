"""A model server that does one thing wrong, in the standard library alone.

    python3 misbehaving_server.py MODE HOST PORT

It runs as a process and, as a file in the scratch folder, in a container.
"""

from __future__ import annotations

import http.server
import os
import signal
import subprocess
import sys
import time
from multiprocessing import resource_tracker, shared_memory

ANSWER = b"forty-two"


class Handler(http.server.BaseHTTPRequestHandler):
    """Answers GET /health, and POST /answer as the mode has it."""

    protocol_version = "HTTP/1.1"
    mode = "ok"
    served = 0

    def do_GET(self) -> None:
        if self.mode == "never ready":
            self.reply(503, b"loading")
        elif self.mode == "silent":
            time.sleep(3600)
        elif self.mode == "babbles":
            self.wfile.write(b"\x00\xff" * 20)
            self.close_connection = True
        else:
            self.reply(200, b"ready")

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        Handler.served += 1
        if self.mode == "dies under load" and self.served > 5:
            print("fatal: the engine loop has died", flush=True)
            os._exit(3)
        elif self.mode == "eats memory under load" and self.served > 5:
            eat_memory()
        elif self.mode == "hangs":
            time.sleep(3600)
        elif self.mode == "garbage":
            self.wfile.write(b"\x00\xff garbage \x00" * 20)
            self.close_connection = True
        elif self.mode == "one in ten" and self.served % 10 == 0:
            self.reply(500, b"internal error")
        else:
            self.reply(200, ANSWER)

    def reply(self, status: int, body: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


def eat_memory() -> None:
    eaten = []
    while True:
        eaten.append(bytearray(os.urandom(1)) * (4 * 2**20))
        time.sleep(0.002)


def report() -> None:
    """Says what it was given: the last lines of a log are what a test sees of a server."""
    print("cores", sorted(os.sched_getaffinity(0)))
    print("user", os.getuid())
    for name in ("HF_TOKEN", "PLACED", "HOME"):
        print(name, os.environ.get(name))
    for path in sys.argv[4:]:
        with open(path) as file:
            print("read", path, file.read())
    for path in ("/written", "/tmp/written", "/cache/written"):
        try:
            open(path, "w").close()
            print("wrote", path)
        except OSError as error:
            print("no", path, error.strerror)
    with open("/proc/self/status") as status:
        print(*(line.strip() for line in status if line.startswith(("CapEff", "NoNewPrivs"))), sep="\n")


def main(mode: str, host: str, port: int) -> None:
    # A shell's or an init's default: without it, the first process of a container ignores SIGTERM.
    signal.signal(signal.SIGTERM, signal.SIG_IGN if mode == "ignores SIGTERM" else lambda *_: os._exit(0))
    print(f"serving with the token {os.environ.get('HF_TOKEN')}", flush=True)
    if mode == "dies at start":
        print("RuntimeError: no such device", file=sys.stderr, flush=True)
        sys.exit(1)
    if mode == "reports":
        report()
        sys.exit(1)
    if mode == "refuses":
        print("ValueError: block size 16 is not supported on this device", flush=True)
        sys.exit(1)
    if mode == "out of GPU memory":
        print("torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB.", flush=True)
        sys.exit(1)
    if mode == "eats memory at start":
        eat_memory()
    if mode == "child eats memory":
        child = subprocess.run([sys.executable, __file__, "eats memory at start", host, "0"], check=False)
        print(f"the worker ended with {child.returncode}", flush=True)
        sys.exit(1)
    if mode == "shares memory":
        shared = shared_memory.SharedMemory(create=True, size=4096)
        resource_tracker.unregister(shared._name, "shared_memory")
        print("shares", shared.name, flush=True)
        mode = "never ready"
    if mode == "detaches":
        # A worker in a session of its own, whose parent ends: only its environment tells whose it is.
        subprocess.Popen(
            [sys.executable, "-c", "import os, time; os.fork() or (os.setsid(), time.sleep(3600))"],
            start_new_session=True,
        ).wait()
    Handler.mode = mode
    server = http.server.ThreadingHTTPServer((host, port), Handler)
    server.daemon_threads = True
    server.serve_forever()


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]))
