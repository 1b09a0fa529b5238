"""The load driver: runs the generator as a process of its own and reads its reports."""

from __future__ import annotations

import contextlib
import os
import selectors
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from typing import IO, Final

from pydantic import ValidationError

from runners.load.job import Advanced, Job, Measured, Refused, dump_job, load_report
from tuner.errors import GeneratorBoundError, TrialFault, UnavailableError, UsageError
from tuner.launch import RequestSpec
from tuner.trial import Measurement, Progress, TrialPlan

_STDERR_TAIL_BYTES: Final = 2000
_REAP_S: Final = 10.0
_REFUSALS: Final = {
    "UnavailableError": UnavailableError,
    "GeneratorBoundError": GeneratorBoundError,
    "UsageError": UsageError,
}


class SubprocessLoadDriver:
    """Drives a running server from a process of its own.

    The process never outlives the call, whatever ends it.
    """

    def drive(self, url: str, request: RequestSpec, plan: TrialPlan, watch: Callable[[Progress], None]) -> Measurement:
        """See `tuner.ports.LoadDriver`.

        Raises:
            UsageError: the request cannot be sent as it is (an unknown datatype, a header of two lines).
        """
        job = Job(url=url, request=request, plan=plan)
        with tempfile.TemporaryFile() as stderr:
            process = subprocess.Popen(
                [sys.executable, "-P", "-m", "runners.load.main", str(os.getpid())],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=stderr,
                bufsize=0,
                start_new_session=True,
            )
            try:
                return _converse(process, job, watch, stderr)
            finally:
                process.kill()
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(_REAP_S)
                for stream in (process.stdin, process.stdout):
                    if stream is not None:
                        stream.close()


def _converse(
    process: subprocess.Popen[bytes], job: Job, watch: Callable[[Progress], None], stderr: IO[bytes]
) -> Measurement:
    assert process.stdin is not None
    assert process.stdout is not None
    ends_s = time.monotonic() + job.deadline_s
    try:
        _write(process.stdin, dump_job(job))
    except BrokenPipeError:
        raise TrialFault(f"The load generator ended before it had its job. {_tail(stderr)}") from None
    for line in _lines(process.stdout, ends_s):
        try:
            report = load_report(line)
        except ValidationError as error:
            raise TrialFault(f"The load generator wrote {line[:200]!r}. {_tail(stderr)}") from error
        match report:
            case Advanced():
                watch(report.progress)
            case Measured():
                return report.measurement
            case Refused():
                kind = _REFUSALS.get(report.error)
                if kind is not None:
                    raise kind(report.message)
                raise TrialFault(f"The load generator failed: {report.message}. {_tail(stderr)}")
    if time.monotonic() >= ends_s:
        raise TrialFault(f"The load generator did not end within its deadline of {job.deadline_s:.0f} s.")
    raise TrialFault(f"The load generator ended without a result. {_tail(stderr)}")


def _write(stream: IO[bytes], data: bytes) -> None:
    """All of `data`: an unbuffered stream may take a part at a time."""
    view = memoryview(data)
    while view:
        view = view[stream.write(view) or 0 :]


def _lines(stream: IO[bytes], ends_s: float) -> Iterator[bytes]:
    """Whole lines until the stream ends or the time is up."""
    rest = b""
    with selectors.DefaultSelector() as selector:
        selector.register(stream, selectors.EVENT_READ)
        while (left_s := ends_s - time.monotonic()) > 0:
            if not selector.select(left_s):
                continue
            part = os.read(stream.fileno(), 65536)
            if not part:
                return
            *lines, rest = (rest + part).split(b"\n")
            yield from lines


def _tail(stderr: IO[bytes]) -> str:
    """The last of what the generator wrote to its standard error."""
    size = stderr.seek(0, os.SEEK_END)
    stderr.seek(max(size - _STDERR_TAIL_BYTES, 0))
    text = stderr.read().decode("utf-8", errors="replace").strip()
    return f"It wrote: {text}" if text else "It wrote nothing."
