"""A timer of microseconds on the event loop.

The loop's own timers tick in milliseconds; a kernel timer (timerfd) wakes it to within some ten
microseconds, without spinning.
"""

from __future__ import annotations

import asyncio
import ctypes
import os
from collections.abc import Callable
from typing import Final

_CLOCK_MONOTONIC: Final = 1
_ABSOLUTE: Final = 1
_NONBLOCK_CLOEXEC: Final = os.O_NONBLOCK | os.O_CLOEXEC
_SOONEST_S: Final = 1e-6
"""A timer set to zero would be disarmed."""


class _Timespec(ctypes.Structure):
    _fields_ = (("seconds", ctypes.c_long), ("nanoseconds", ctypes.c_long))


class _Setting(ctypes.Structure):
    _fields_ = (("interval", _Timespec), ("value", _Timespec))


class Timer:
    """Calls back at one moment of the monotonic clock (`time.perf_counter`); one moment at a time."""

    def __init__(self, callback: Callable[[], None]) -> None:
        self._libc = ctypes.CDLL(None, use_errno=True)
        self._file = self._libc.timerfd_create(_CLOCK_MONOTONIC, _NONBLOCK_CLOEXEC)
        if self._file < 0:
            raise OSError(ctypes.get_errno(), "timerfd_create")
        self._setting = _Setting()
        self._reference = ctypes.byref(self._setting)
        self._callback = callback
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(self._file, self._ring)

    def set(self, at_s: float) -> None:
        """Calls back at `at_s`, at once if that is past; replaces an earlier setting."""
        seconds = int(at_s)
        value = self._setting.value
        value.seconds = seconds
        value.nanoseconds = max(int((at_s - seconds) * 1e9), int(_SOONEST_S * 1e9))
        self._libc.timerfd_settime(self._file, _ABSOLUTE, self._reference, None)

    def close(self) -> None:
        """Never calls back again."""
        if self._file >= 0:
            self._loop.remove_reader(self._file)
            os.close(self._file)
            self._file = -1

    def _ring(self) -> None:
        try:
            os.read(self._file, 8)
        except BlockingIOError:  # set anew between the ring and this call
            return
        self._callback()
