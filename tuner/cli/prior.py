"""`tune prior`: the library of earlier tasks."""

from __future__ import annotations

import argparse
import json
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from tuner.errors import UnknownNameError, UsageError
from tuner.priors.library import PriorLibrary, starter_tasks, write_text
from tuner.priors.prior_task import PriorTask, read_prior

_Run = Callable[[PriorLibrary, argparse.Namespace], None]


def add(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Adds the command."""
    parser = commands.add_parser(
        "prior",
        help="keep what earlier studies found, for later ones",
        description=(
            "A library of earlier tasks: configurations and numbers, no weights. It lies in $TUNER_PRIORS, or in the "
            "user's data folder. The tasks that ship are shown as `starter`."
        ),
    )
    parser.add_argument("--library", type=Path, metavar="DIR", help="another folder")
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True)

    adding = _action(actions, "add", "add a finished study", "tune prior add study.yaml --name encoder-a", _add)
    adding.add_argument("study", help="study file, or with --storage a study's name")
    adding.add_argument("--storage", metavar="URL", help="storage that holds the study named")
    adding.add_argument("--name", help="of the prior (default: the study's)")
    adding.add_argument("--replace", action="store_true", help="replace a prior of that name")

    listing = _action(actions, "list", "list all priors", "tune prior list --json", _list)
    listing.add_argument("--json", action="store_true", help="print JSON")

    showing = _action(actions, "show", "show one prior", "tune prior show encoder-a", _show)
    showing.add_argument("name", help="of the prior")
    showing.add_argument("--json", action="store_true", help="print the whole prior as JSON")

    removing = _action(actions, "remove", "forget one prior", "tune prior remove encoder-a", _remove)
    removing.add_argument("name", help="of the prior")

    exporting = _action(actions, "export", "write one prior to a file", "tune prior export encoder-a a.json", _export)
    exporting.add_argument("name", help="of the prior")
    exporting.add_argument("file", type=Path, help="to write")

    importing = _action(actions, "import", "add priors from files", "tune prior import a.json b.json.gz", _import)
    importing.add_argument("files", nargs="+", type=Path, help="written by export")
    importing.add_argument("--replace", action="store_true", help="replace priors of the same names")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Does what was asked."""
    action: _Run = arguments.act
    action(PriorLibrary(arguments.library), arguments)
    return 0


def _action(
    actions: argparse._SubParsersAction[argparse.ArgumentParser], name: str, text: str, example: str, act: _Run
) -> argparse.ArgumentParser:
    parser = actions.add_parser(name, help=text, description=text.capitalize() + ".", epilog=f"example: {example}")
    parser.set_defaults(act=act)
    return parser


def _add(library: PriorLibrary, arguments: argparse.Namespace) -> None:
    # The study's adapters and storage are needed here only; the other actions start at once.
    from tuner.cli.show import chosen_result
    from tuner.study.earlier import remembered
    from tuner.study.space import study_space

    result = chosen_result(arguments)
    space = study_space(result.study, result.engine)
    sys.stdout.write(f"{remembered(result, space, library, arguments.name, replace=arguments.replace)}\n")


def _list(library: PriorLibrary, arguments: argparse.Namespace) -> None:
    contents = library.read()
    found = [("library", task) for task in contents.tasks] + [("starter", task) for task in starter_tasks()]
    if arguments.json:
        entries: list[dict[str, object]] = [
            {
                "name": task.name,
                "kind": kind,
                "engine": task.engine,
                "trials": len(task.trials),
                "source": task.source,
                "licence": task.licence,
            }
            for kind, task in found
        ]
        entries += [
            {"name": name, "kind": "unreadable", "problem": str(error)} for name, error in contents.unreadable.items()
        ]
        sys.stdout.write(json.dumps(entries, indent=2) + "\n")
        return
    for kind, task in found:
        sys.stdout.write(f"{task.name:48} {kind:8} {len(task.trials):5} trials  {', '.join(task.parameters)}\n")
    for name, error in contents.unreadable.items():
        sys.stdout.write(f"{name:48} {'unreadable':14}  {error}\n")


def _show(library: PriorLibrary, arguments: argparse.Namespace) -> None:
    task = _find(library, arguments.name)
    if arguments.json:
        sys.stdout.write(task.to_json() + "\n")
        return
    lines = [
        f"name        {task.name}",
        f"source      {task.source}",
        f"licence     {task.licence or '-'}",
        f"engine      {task.engine or '-'}",
        f"trials      {len(task.trials)}, {task.measured} of which ran",
        f"parameters  {', '.join(f'{name} ({scale.value})' for name, scale in task.parameters.items())}",
        f"metrics     {', '.join(task.metrics)}",
        f"model       {', '.join(f'{name} {value:.3g}' for name, value in task.features.items() if value) or '-'}",
    ]
    sys.stdout.write("\n".join(lines) + "\n")


def _remove(library: PriorLibrary, arguments: argparse.Namespace) -> None:
    name = arguments.name
    if name not in library.names() and any(task.name == name for task in starter_tasks()):
        raise UsageError(f"{name!r} ships with serving-tuner. Only priors of your library can be removed.")
    library.remove(name)


def _export(library: PriorLibrary, arguments: argparse.Namespace) -> None:
    write_text(arguments.file, _find(library, arguments.name).to_json() + "\n")


def _import(library: PriorLibrary, arguments: argparse.Namespace) -> None:
    # All are read before any is stored, so that a bad file leaves the library as it was.
    tasks = [read_prior(path) for path in arguments.files]
    twice = sorted(name for name, count in Counter(task.name for task in tasks).items() if count > 1)
    if twice:
        raise UsageError(f"More than one of the files holds a prior called {', '.join(twice)}. Name one of them.")
    taken = [task.name for task in tasks if task.name in library.names()]
    if taken and not arguments.replace:
        raise UsageError(f"The library already has {', '.join(taken)}. Add --replace to replace them.")
    for task in tasks:
        sys.stdout.write(f"{library.add(task, replace=True)}\n")


def _find(library: PriorLibrary, name: str) -> PriorTask:
    if name in library.names():
        return library.get(name)
    shipped = {task.name: task for task in starter_tasks()}
    if name not in shipped:
        raise UnknownNameError("prior", name, [*library.names(), *shipped])
    return shipped[name]
