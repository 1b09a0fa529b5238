"""The command `tune`: parses, calls, prints.

Exit codes: 0 done, 1 failure, 2 misuse, 3 no configuration meets the SLO, 130 interrupted.
"""

from __future__ import annotations

import argparse
import importlib
import importlib.metadata
import signal
import sys
from collections.abc import Iterable, Sequence
from types import FrameType
from typing import Any, Final, NoReturn

from rich.console import Console

from tuner.errors import TunerError

_EPILOG = """\
examples:
  tune init --engine triton > study.yaml     a commented study file
  tune check study.yaml                      every fault of it at once
  tune run study.yaml                        tune; run again to go on after an interruption
  tune show study.yaml                       what has been found so far
  tune export study.yaml --format compose    files that start as they are
"""
_MODULES: Final = {
    "run": "run",
    "init": "study_files",
    "check": "study_files",
    "schema": "study_files",
    "show": "show",
    "export": "export",
    "load": "load",
    "bench": "bench",
    "prior": "prior",
    "predict": "predict",
    "simulate": "simulate",
    "profile": "profile",
}
"""Commands, each with the module of this package that adds it."""


def build_parser(command: str | None = None) -> argparse.ArgumentParser:
    """The parser of every command, or of one: then only what that one needs is imported."""
    parser = argparse.ArgumentParser(
        prog="tune",
        description="Finds the cheapest model-server configuration that meets an SLO, in a handful of real trials.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action=_Version, help="show the version and exit")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    if command == "--version":
        modules: Iterable[str] = ()
    else:
        modules = [_MODULES[command]] if command in _MODULES else dict.fromkeys(_MODULES.values())
    for module in modules:
        importlib.import_module(f"tuner.cli.{module}").add(commands)
    return parser


class _Version(argparse.Action):
    """Shows the version; it is looked up only then."""

    def __init__(self, **arguments: Any) -> None:
        super().__init__(**{**arguments, "nargs": 0, "default": argparse.SUPPRESS})

    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> NoReturn:
        sys.stdout.write(f"{parser.prog} {importlib.metadata.version('serving-tuner')}\n")
        parser.exit()


def main(argv: Sequence[str] | None = None) -> int:
    """Runs `tune` with `argv` and returns its exit code."""
    words = sys.argv[1:] if argv is None else argv
    arguments = build_parser(next(iter(words), None)).parse_args(argv)
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
    except OSError as error:
        place = "" if error.filename is None else f"{error.filename}: "
        problem = f"tune: {place}{error.strerror or error}. Free space, or name a place that can be read and written."
        console.print(problem, style="red", markup=False, highlight=False, soft_wrap=True)
        return 1


def _interrupted(signum: int, frame: FrameType | None) -> None:
    """SIGTERM ends a run as Ctrl-C does: the server is stopped and the trial closed."""
    raise KeyboardInterrupt


if __name__ == "__main__":
    sys.exit(main())
