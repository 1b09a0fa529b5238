"""`tune bench replay`: search strategies compared on recorded grids."""

from __future__ import annotations

import argparse
import importlib
import sys
from collections.abc import Sequence
from pathlib import Path

from tuner.bench.contenders import META, NAMES
from tuner.errors import TunerError


def add(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Adds the command."""
    parser = commands.add_parser(
        "bench",
        help="compare search strategies on recorded grids",
        description="Compares search strategies; nothing is started, recorded measurements answer.",
    )
    kinds = parser.add_subparsers(dest="bench", metavar="KIND", required=True)
    replay = kinds.add_parser(
        "replay",
        help="replay recorded grids, each group left out in turn",
        description=(
            "Every group of a task file is searched in turn, the others being its earlier tasks. Writes "
            "evaluations.jsonl, summary.json, summary.txt and regret.svg; run again, it goes on where it was left."
        ),
        epilog="example: tune bench replay benchmarks/replay/tasks/*.yaml --strategies meta,cherrypick --seeds 5",
    )
    _add_arguments(replay)
    replay.set_defaults(run=run)


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("tasks", nargs="+", type=Path, metavar="TASK.yaml", help="task files")
    parser.add_argument(
        "--strategies", default=META, metavar="A,B", help=f"of {', '.join(NAMES)}; or `all` (default: {META})"
    )
    parser.add_argument("--seeds", type=int, default=1, metavar="N", help="seeds 0 to N-1 (default: 1)")
    parser.add_argument("--budget", type=int, default=40, metavar="K", help="evaluations per task (default: 40)")
    parser.add_argument(
        "--history",
        default="full",
        metavar="H",
        help="what is left of earlier tasks: full, logs:K or none (default: full)",
    )
    parser.add_argument(
        "--targets", nargs="+", type=Path, default=[], metavar="FILE", help="CSV files whose groups are the tasks"
    )
    parser.add_argument(
        "--leave-out",
        default="",
        metavar="COLUMN,…",
        help="leave out all groups that share the target's value of the first of these columns that the data has",
    )
    parser.add_argument("--unlike", action="store_true", help="only the least similar half of the earlier tasks")
    parser.add_argument("--parallel", type=int, default=1, metavar="N", help="trials in flight at a time (default: 1)")
    parser.add_argument(
        "--noise", type=float, default=0.0, metavar="S", help="standard deviation of a factor on answers"
    )
    parser.add_argument("--failures", type=float, default=0.0, metavar="P", help="probability of a random failure")
    parser.add_argument(
        "--until", type=float, metavar="SHARE", help="end a replay once this close to the optimum (0.01), to save time"
    )
    parser.add_argument("--out", type=Path, default=Path("bench-replay"), metavar="DIR", help="default: bench-replay")
    parser.add_argument("--jobs", type=int, default=1, metavar="J", help="processes (default: 1)")
    parser.add_argument("--json", action="store_true", help="print the summary as JSON")


def run(arguments: argparse.Namespace) -> int:
    """Runs the comparison and prints its summary."""
    # Brings pandas, which the other commands do without.
    return int(importlib.import_module("tuner.cli.bench_replay").run(arguments))


def main(argv: Sequence[str] | None = None) -> int:
    """The command on its own: `python -m tuner.cli.bench replay …`."""
    parser = argparse.ArgumentParser(prog="tune")
    add(parser.add_subparsers(dest="command", required=True))
    try:
        arguments = parser.parse_args(["bench", *(sys.argv[1:] if argv is None else argv)])
        return int(arguments.run(arguments))
    except TunerError as error:
        sys.stderr.write(f"tune: {error}\n")
        return error.exit_code


if __name__ == "__main__":
    sys.exit(main())
