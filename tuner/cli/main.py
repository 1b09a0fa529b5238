"""The command `tune`: parses, calls, prints.

Exit codes: 0 done, 1 failure, 2 misuse, 3 no configuration meets the SLO, 130 interrupted.
"""

from __future__ import annotations

import argparse
import signal
import sys
from collections.abc import Sequence
from types import FrameType

from rich.console import Console

from tuner.cli import export, load, run, show, study_files
from tuner.errors import TunerError

_EPILOG = """\
examples:
  tune init --engine triton > study.yaml     a commented study file
  tune check study.yaml                      every fault of it at once
  tune run study.yaml                        tune; run again to go on after an interruption
  tune show study.yaml                       what has been found so far
  tune export study.yaml --format compose    files that start as they are
"""
_COMMANDS = (run, study_files, show, export, load)


def build_parser() -> argparse.ArgumentParser:
    """The parser of every command."""
    parser = argparse.ArgumentParser(
        prog="tune",
        description="Finds the cheapest model-server configuration that meets an SLO, in a handful of real trials.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    for module in _COMMANDS:
        module.add(commands)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Runs `tune` with `argv` and returns its exit code."""
    arguments = build_parser().parse_args(argv)
    console = Console(stderr=True)
    signal.signal(signal.SIGTERM, _interrupted)
    try:
        return int(arguments.run(arguments))
    except TunerError as error:
        console.print(f"tune: {error}", style="red", markup=False, highlight=False, soft_wrap=True)
        return error.exit_code
    except KeyboardInterrupt:
        console.print("tune: interrupted; the same command goes on from here", markup=False, highlight=False)
        return 130
    except BrokenPipeError:
        sys.stderr.close()
        return 1


def _interrupted(signum: int, frame: FrameType | None) -> None:
    """SIGTERM ends a run as Ctrl-C does: the server is stopped and the trial closed."""
    raise KeyboardInterrupt


if __name__ == "__main__":
    sys.exit(main())
