"""Asking a server whether it is ready."""

from __future__ import annotations

import re
import socket
import time

_STATUS_LINE = re.compile(rb"^HTTP/1\.[01] (\d{3})\b")
_STATUS_LINE_BYTES = 1024
_DRAIN_S = 0.02


def unready(host: str, port: int, path: str, timeout_s: float) -> str | None:
    """Why GET `path` is not answered with 2xx; `None` if it is.

    Everything together takes `timeout_s` at most, even where the server sends byte by byte.
    """
    deadline = time.monotonic() + timeout_s
    try:
        with socket.create_connection((host, port), timeout=timeout_s) as connection:
            connection.sendall(
                f"GET {path} HTTP/1.1\r\nHost: {host}:{port}\r\nAccept: */*\r\nConnection: close\r\n\r\n".encode()
            )
            answer = b""
            while b"\n" not in answer and len(answer) < _STATUS_LINE_BYTES:
                connection.settimeout(max(deadline - time.monotonic(), 1e-3))
                chunk = connection.recv(_STATUS_LINE_BYTES)
                if not chunk:
                    break
                answer += chunk
            if not answer:
                return "it closes the connection without an answer"
            match = _STATUS_LINE.match(answer)
            if match is None:
                return f"it answers {answer[:60]!r}, which is not HTTP"
            if not match.group(1).startswith(b"2"):
                return f"GET {path} is answered with status {match.group(1).decode()}"
            _drain(connection)
            return None
    except TimeoutError:
        return "it accepts connections and does not answer"
    except OSError as error:
        return f"it does not accept connections ({error.strerror or error})"


def _drain(connection: socket.socket) -> None:
    """Reads the body that usually follows at once, so that the server does not log a broken pipe."""
    connection.settimeout(_DRAIN_S)
    try:
        while connection.recv(65536):
            pass
    except OSError:
        pass
