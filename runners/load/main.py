"""The generator's process: a job on standard input, reports on standard output.

It ends with its parent: when standard input closes, or the kernel says that the parent is gone.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import gc
import os
import resource
import signal
import sys
import traceback
from typing import Final

import uvloop

from runners.load.http_head import Endpoint
from runners.load.job import Advanced, Job, Measured, Refused, dump_report, load_job
from runners.load.meter import Meter
from tuner.errors import GeneratorBoundError, UnavailableError, UsageError
from tuner.trial import Measurement, Progress

_PR_SET_PDEATHSIG: Final = 1
_ORPHANED: Final = 3


def main() -> int:
    """Runs one job; 0 also when the report says that there is no result."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's business, which ends us
    _die_with_parent()
    _allow_many_connections()
    job = load_job(sys.stdin.buffer.readline())
    gc.freeze()
    try:
        measurement = uvloop.run(_run(job))
    except UnavailableError as error:
        _send(Refused(error="UnavailableError", message=str(error)))
    except GeneratorBoundError as error:
        _send(Refused(error="GeneratorBoundError", message=str(error)))
    except UsageError as error:
        _send(Refused(error="UsageError", message=str(error)))
    except Exception as error:  # the parent turns it into a fault of our own
        traceback.print_exc()
        _send(Refused(error="TrialFault", message=f"{type(error).__name__}: {error}"))
    else:
        _send(Measured(measurement=measurement))
    return 0


async def _run(job: Job) -> Measurement:
    asyncio.get_running_loop().add_reader(sys.stdin.fileno(), _watch_parent)
    endpoint = Endpoint.resolve(job.url)
    return await Meter(endpoint, job.request, job.plan, _report).measure()


def _report(progress: Progress) -> None:
    _send(Advanced(progress=progress))


def _send(report: Advanced | Measured | Refused) -> None:
    sys.stdout.buffer.write(dump_report(report))
    sys.stdout.buffer.flush()


def _watch_parent() -> None:
    if not os.read(sys.stdin.fileno(), 4096):
        os._exit(_ORPHANED)


def _die_with_parent() -> None:
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if len(sys.argv) > 1 and os.getppid() != int(sys.argv[1]):
        os._exit(_ORPHANED)  # it died before the kernel was asked


def _allow_many_connections() -> None:
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


if __name__ == "__main__":
    sys.exit(main())
