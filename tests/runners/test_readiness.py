"""Asking servers whether they are ready."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator

import pytest

from runners.readiness import unready

Server = Callable[[bytes, bool], int]


@pytest.fixture
def serving() -> Iterator[Server]:
    """Serves fixed bytes, all at once or dripping, on a port of its own."""
    ended = threading.Event()
    threads: list[threading.Thread] = []
    listener = socket.create_server(("127.0.0.1", 0))
    listener.settimeout(0.05)

    def serve(answer: bytes, drips: bool) -> int:
        def answers() -> None:
            while not ended.is_set():
                try:
                    connection, _ = listener.accept()
                except TimeoutError:
                    continue
                with connection:
                    connection.recv(4096)
                    for piece in [answer[i : i + 1] for i in range(len(answer))] if drips else [answer]:
                        connection.sendall(piece)
                        if drips and ended.wait(0.1):
                            return

        threads.append(threading.Thread(target=answers))
        threads[-1].start()
        return int(listener.getsockname()[1])

    yield serve
    ended.set()
    for thread in threads:
        thread.join()
    listener.close()


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok", None),
        (b"HTTP/1.0 204 No Content\r\n\r\n", None),
        (b"HTTP/1.1 503 Service Unavailable\r\n\r\n", "GET /h is answered with status 503"),
        (b"HTTP/1.1 302 Found\r\n\r\n", "status 302"),
        (b"SSH-2.0-OpenSSH_9.2\r\n", "not HTTP"),
        (b"\x00" * 5000, "not HTTP"),
        (b"", "closes the connection without an answer"),
    ],
)
def test_answer_is_told(serving: Server, answer: bytes, words: str | None) -> None:
    why = unready("127.0.0.1", serving(answer, False), "/h", 2.0)
    assert (why is None) if words is None else (why is not None and words in why)


def test_server_that_sends_byte_by_byte_is_given_up_in_time(serving: Server) -> None:
    why = unready("127.0.0.1", serving(b"HTTP/1.1 200 OK and so on and on" * 10, True), "/h", 0.3)
    assert why == "it accepts connections and does not answer"


def test_nobody_there_is_told() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    why = unready("127.0.0.1", port, "/h", 1.0)
    assert why is not None
    assert "does not accept connections (Connection refused)" in why
