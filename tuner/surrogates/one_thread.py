"""Small linear algebra on one thread.

Fits call thousands of operations on matrices of tens of rows. Thread pools gain nothing there, and as NumPy, SciPy
and torch each bring one, they fight for the cores: on a busy machine with two cores a suggestion took four times as
long with two threads. One thread also makes sums, and so suggestions, reproducible.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterator

import torch
from threadpoolctl import ThreadpoolController


@contextlib.contextmanager
def one_thread() -> Iterator[None]:
    """Runs its body with all thread pools of this process at one thread, and restores them."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with _controller().limit(limits=1, user_api="blas"):
            yield
    finally:
        torch.set_num_threads(before)


@functools.cache
def _controller() -> ThreadpoolController:
    """Made once all libraries are loaded: looking for them takes milliseconds."""
    return ThreadpoolController()
