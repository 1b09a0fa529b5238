"""Compilation of the simulators' loops."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

from numba import njit


def compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    """The function as machine code, kept on disk for the next process.

    It becomes part of whoever calls it: a call of its own would count references to every array that it is given.

    What is kept does not notice a change of what the function calls in another file: after one,
    `find tuner -name "*.nb[ic]" -delete`.
    """
    return cast(Callable[..., Any], njit(cache=True, nogil=True, forceinline=True)(function))
