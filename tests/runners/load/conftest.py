"""The test server, in a process of its own."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

ServerStarter = Callable[..., str]


@pytest.fixture(scope="module")
def start_server() -> Iterator[ServerStarter]:
    """Starts test servers, returning their URLs; they end with the module's tests."""
    with ExitStack() as stack:

        def start(*, service_s: float = 0.005, workers: int = 1) -> str:
            script = str(Path(__file__).with_name("server.py"))
            argv = [sys.executable, "-P", script, "--service", str(service_s), "--workers", str(workers)]
            process = stack.enter_context(subprocess.Popen(argv, stdout=subprocess.PIPE, text=True))
            stack.callback(process.kill)
            assert process.stdout is not None
            return f"http://127.0.0.1:{int(process.stdout.readline())}"

        yield start
