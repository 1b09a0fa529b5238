"""Compilation of the surrogates' inner loops."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

from numba import njit


def compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    """The function as machine code, kept on disk for the next process; sums may be taken in another order."""
    options = {"reassoc", "contract", "nsz"}
    return cast(Callable[..., Any], njit(cache=True, nogil=True, fastmath=options, error_model="numpy")(function))
