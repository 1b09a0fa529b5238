"""A server of the `command` engine: its options, checked as a whole."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Final

from search_spaces.command_options import CommandOptions, ConditionalArguments, FileSource, read_options
from search_spaces.command_rule import Comparison, RuleError
from search_spaces.command_template import RUNNER_PLACES, Template
from search_spaces.environment import is_secret
from tuner.errors import Fault, OptionsError, SpaceError, did_you_mean
from tuner.parameter import DEVICE, Condition, Parameter, Value

MODEL: Final = "model"
CPUS: Final = "cpus"
GPUS: Final = "gpus"

_RESERVED: Final = frozenset({*RUNNER_PLACES, MODEL, DEVICE, CPUS, GPUS})
_FACTS: Final = frozenset({DEVICE, CPUS, GPUS})  # what a rule may speak of beside parameters
_LARGEST_FILE: Final = 1_000_000  # characters


@dataclass(frozen=True, slots=True, kw_only=True)
class Argument:
    """One argument, given where the conditions hold."""

    text: Template
    when: tuple[Condition, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class CommandServer:
    """A server, its parameters and rules, ready to be written out.

    Attributes:
        options: as the user wrote them, in the right form.
        parameters: each after those that its conditions name.
        rules: read.
        entrypoint, command, environment, files: templates.
    """

    options: CommandOptions
    parameters: tuple[Parameter, ...]
    rules: tuple[Comparison, ...]
    entrypoint: tuple[Template, ...] | None
    command: tuple[Argument, ...]
    environment: Mapping[str, Template]
    files: Mapping[str, Template]

    @classmethod
    def of(cls, options: Mapping[str, object]) -> CommandServer:
        """The server that `options` describe.

        Raises:
            OptionsError: every fault, at its place.
        """
        parsed, faults, broken = read_options(options)
        reader = _Reader(parsed, broken)
        server = reader.read()
        faults += reader.faults
        if faults:
            raise OptionsError("command", faults)
        return server

    @property
    def names(self) -> frozenset[str]:
        """Every placeholder that the server's texts have."""
        templates = [*(self.entrypoint or ()), *(a.text for a in self.command)]
        return frozenset().union(*(t.names for t in (*templates, *self.environment.values(), *self.files.values())))


class _Reader:
    """Reads options, and collects what is wrong with them."""

    def __init__(self, options: CommandOptions, broken: frozenset[str]) -> None:
        self._options = options
        self._broken = broken
        self.faults: list[Fault] = []

    def read(self) -> CommandServer:
        options = self._options
        server = CommandServer(
            options=options,
            parameters=self._parameters(),
            rules=self._rules(),
            entrypoint=None if options.entrypoint is None else tuple(map(Template.parse, options.entrypoint)),
            command=tuple(self._arguments()),
            environment={name: Template.parse(text) for name, text in options.environment.items()},
            files={name: Template.parse(text) for name, text in self._file_texts()},
        )
        self._check_start()
        self._check_environment()
        self._check_mounts()
        self._check_placeholders(server)
        self._check_files(server)
        self._check_rules(server)
        self._check_request()
        self._check_refusals()
        return server

    def _fault(self, where: str, problem: str, remedy: str) -> None:
        self.faults.append(Fault(where=where, problem=problem, remedy=remedy))

    def _parameters(self) -> tuple[Parameter, ...]:
        sections = self._options.parameters
        for name in sections:
            if name in _RESERVED:
                self._fault(f"parameters.{name}", f"{name!r} is a placeholder already.", "Choose another name.")
        made: dict[str, Parameter] = {}
        waiting = dict(sections)
        while waiting:
            # Those whose conditions speak of nothing that is still to come.
            ready = [name for name, section in waiting.items() if not waiting.keys() & section.when.keys() - {name}]
            if not ready:
                names = ", ".join(sorted(waiting))
                self._fault("parameters", f"{names} depend on one another in a circle.", "Remove one `when`.")
                break
            for name in ready:
                section = waiting.pop(name)
                conditions = self._conditions(f"parameters.{name}.when", section.when, except_for=name)
                try:
                    domain = section.domain
                    made[name] = Parameter(
                        name=name,
                        values=domain,
                        default=domain[0] if section.default is None else section.default,
                        scale=section.on,
                        active_when=conditions,
                        says=section.says,
                    )
                except SpaceError as error:
                    self._fault(f"parameters.{name}", str(error), "")
                except (TypeError, ValueError):
                    self._fault(
                        f"parameters.{name}.values",
                        f"{list(section.values or ())} are not numbers.",
                        f"Write numbers, or remove scale: {section.scale}.",
                    )
        return tuple(made[name] for name in made)

    def _conditions(
        self, where: str, when: Mapping[str, tuple[Value, ...]], except_for: str | None = None
    ) -> tuple[Condition, ...]:
        for name, values in when.items():
            section = self._options.parameters.get(name)
            if section is None or name == except_for:
                if "parameters" not in self._broken:
                    known = self._options.parameters.keys() - {except_for}
                    self._fault(f"{where}.{name}", f"{name!r} is no other parameter.", did_you_mean(name, known))
                continue
            domain = section.values or (section.range.values if section.range is not None else ())
            for value in values:
                if not any(value == known and isinstance(value, bool) == isinstance(known, bool) for known in domain):
                    self._fault(f"{where}.{name}", f"{name!r} is never {value!r}.", f"Choose among {list(domain)}.")
        return tuple(Condition(parameter=name, values=values) for name, values in when.items())

    def _rules(self) -> tuple[Comparison, ...]:
        rules = []
        for position, text in enumerate(self._options.rules):
            try:
                rules.append(Comparison.parse(text))
            except RuleError as error:
                self._fault(f"rules.{position}", str(error), "")
        return tuple(rules)

    def _arguments(self) -> Iterator[Argument]:
        for position, entry in enumerate(self._options.command):
            if isinstance(entry, ConditionalArguments):
                conditions = self._conditions(f"command.{position}.when", entry.when)
                for text in entry.args:
                    yield Argument(text=Template.parse(text), when=conditions)
            else:
                yield Argument(text=Template.parse(entry))

    def _file_texts(self) -> Iterator[tuple[str, str]]:
        for name, entry in self._options.files.items():
            where = f"files.{name}"
            path = PurePosixPath(name)
            if path.is_absolute() or ".." in path.parts or str(path) in ("", "."):
                self._fault(where, f"{name!r} is no path within {{scratch}}.", "Write a relative one, such as a.conf.")
            if not isinstance(entry, FileSource):
                yield name, entry
                continue
            try:
                text = Path(entry.source).expanduser().read_text(encoding="utf-8")
            except (OSError, UnicodeDecodeError, ValueError) as error:
                reason = getattr(error, "strerror", None) or "it is no text"
                self._fault(f"{where}.source", f"{entry.source!r} cannot be read: {reason}.", "Correct the path.")
                continue
            if len(text) > _LARGEST_FILE:
                self._fault(f"{where}.source", f"{entry.source!r} is no template: it has {len(text)} characters.", "")
            yield name, text

    def _check_start(self) -> None:
        options = self._options
        if options.image is None and not options.command and not self._broken & {"image", "command"}:
            self._fault("", "There is neither an image nor a command.", "Write image: or command:, or both.")
        first = options.command[0] if options.command else None
        if isinstance(first, ConditionalArguments) and options.image is None:
            self._fault("command.0", "The program depends on a parameter.", "Begin the command with a program.")

    def _check_environment(self) -> None:
        for name in self._options.environment:
            if is_secret(name):
                self._fault(
                    f"environment.{name}",
                    f"{name} looks like a secret, and options are stored and exported.",
                    "Set it where the tuner runs, and name it under runner.pass_environment.",
                )

    def _check_mounts(self) -> None:
        for name, mount in self._options.mounts.items():
            if name == MODEL:
                self._fault(f"mounts.{name}", "The model is mounted by itself.", "Choose another name.")
            if not Path(mount.source).expanduser().exists():
                self._fault(f"mounts.{name}.source", f"{mount.source!r} does not exist.", "Correct the path.")

    def _check_placeholders(self, server: CommandServer) -> None:
        mounts = {f"mount:{name}" for name in self._options.mounts}
        known = {*self._options.parameters, *mounts, *RUNNER_PLACES, MODEL, DEVICE}
        for where, template in _templates(server):
            for name in sorted(template.names - known):
                if self._broken & ({"mounts"} if name.startswith("mount:") else {"parameters"}):
                    continue
                remedy = did_you_mean(name, known)
                self._fault(where, f"{{{name}}} is no placeholder.", f"{remedy} Double the braces of literal text.")
        if self._broken & {"command", "environment", "files", "entrypoint"}:
            return
        conditions = [condition for argument in server.command for condition in argument.when]
        used = server.names | {condition.parameter for condition in conditions}
        for name in self._options.parameters:
            if name not in used:
                self._fault(
                    f"parameters.{name}",
                    f"{name!r} is used nowhere, so it would change nothing.",
                    f"Write {{{name}}} in the command, the environment or a file, or remove it.",
                )

    def _check_files(self, server: CommandServer) -> None:
        for name, template in server.files.items():
            # The runner fills in whatever looks like its placeholders, whether the braces were doubled or not.
            clash = any(Template.parse(text).for_runner for text in template.literals)
            if clash and template.for_runner:
                self._fault(
                    f"files.{name}",
                    "It has placeholders such as {port} with single and with doubled braces.",
                    "Write such a literal text in another file.",
                )

    def _check_rules(self, server: CommandServer) -> None:
        if self._broken & {"parameters"} or self.faults:
            return
        parameters = {parameter.name: parameter for parameter in server.parameters}
        known = parameters.keys() | _FACTS
        for position, rule in enumerate(self._options.rules):
            comparison = next((read for read in server.rules if read.text == rule.strip()), None)
            if comparison is None:
                continue
            unknown = [name for name in comparison.names if name not in known]
            for name in unknown:
                self._fault(f"rules.{position}", f"{name!r} is no parameter.", did_you_mean(name, known))
            if unknown:
                continue
            # One value of each kind tells whether the comparison makes sense at all.
            samples: dict[str, Value | None] = {DEVICE: "cpu", CPUS: 1, GPUS: 1}
            samples |= {name: parameter.default for name, parameter in parameters.items()}
            try:
                for name in comparison.names:
                    for value in parameters[name].values if name in parameters else ():
                        comparison.holds({**samples, name: value})
            except RuleError as error:
                self._fault(f"rules.{position}", str(error), "")

    def _check_request(self) -> None:
        request = self._options.request
        fields = {
            "template": ("method", "path", "headers", "body", "streamed", "expect"),
            "openai": ("path", "headers", "model_name", "vocabulary", "prompt", "ignore_eos"),
            "kserve": ("model_name", "inputs", "outputs"),
        }
        for name in request.model_fields_set - {"protocol", *fields[request.protocol]}:
            protocols = " or ".join(protocol for protocol, names in fields.items() if name in names)
            self._fault(
                f"request.{name}",
                f"{name!r} says nothing with protocol: {request.protocol}.",
                f"Remove it, or write protocol: {protocols}.",
            )
        if request.protocol != "template" and not request.model_name:
            self._fault("request.model_name", "is missing.", "Write the model's name as the server's API knows it.")
        if request.protocol == "kserve" and not request.inputs:
            self._fault(
                "request.inputs", "is missing.", "Write for example [{name: x, datatype: FP32, dims: [1, 16]}]."
            )
        vocabulary = request.vocabulary
        if vocabulary is not None and not 0 <= vocabulary[0] < vocabulary[1]:
            self._fault(
                "request.vocabulary", f"{list(vocabulary)} is no range of ids.", "Write for example [100, 1000]."
            )
        if vocabulary is not None and request.prompt == "text":
            self._fault("request.vocabulary", "It says nothing with prompt: text.", "Remove it, or write prompt: ids.")
        for position, tensor in enumerate(request.inputs):
            if not tensor.low < tensor.high:
                self._fault(f"request.inputs.{position}.high", f"{tensor.high} is not above low.", "Write low < high.")

    def _check_refusals(self) -> None:
        for position, pattern in enumerate(self._options.refusals):
            try:
                re.compile(pattern)
            except re.error as error:
                self._fault(f"refusals.{position}", f"{pattern!r} is no regular expression: {error}.", "")


def _templates(server: CommandServer) -> Iterable[tuple[str, Template]]:
    for position, template in enumerate(server.entrypoint or ()):
        yield f"entrypoint.{position}", template
    for position, entry in enumerate(server.options.command):
        for text in entry.args if isinstance(entry, ConditionalArguments) else (entry,):
            yield f"command.{position}", Template.parse(text)
    for name, template in server.environment.items():
        yield f"environment.{name}", template
    for name, template in server.files.items():
        yield f"files.{name}", template
