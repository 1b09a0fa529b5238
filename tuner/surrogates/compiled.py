"""Compilation of the surrogates' inner loops."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

from numba import njit


def compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    """The function as machine code, kept on disk for the next process; sums may be taken in another order.

    What is kept does not notice a change of what the function calls in another file: after one,
    `find tuner -name "*.nb[ic]" -delete`.
    """
    options = {"reassoc", "contract", "nsz"}
    return cast(Callable[..., Any], njit(cache=True, nogil=True, fastmath=options, error_model="numpy")(function))
