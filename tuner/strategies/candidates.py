"""Candidates: every valid configuration of a search space, as an array.

| symbol | meaning |
| --- | --- |
| `n` | number of candidates |
| `d` | number of parameters |
| row | shape (d,): per parameter the position of its value in the domain, -1 where it is inactive |
| levels | a row whose inactive parameters stand at their default; as unique as the row |

Enumeration goes parameter by parameter and drops what a rule forbids as soon as all the parameters
of the rule are known; a rule is called once per combination of *its own* parameters that occurs.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from tuner.errors import SpaceError
from tuner.parameter import Config, Parameter, Value
from tuner.space import Rule, Space

Rows = npt.NDArray[np.int16]
Positions = npt.NDArray[np.int64]
Matrix = npt.NDArray[np.float64]

INACTIVE: Final = -1

DEFAULT_LIMIT: Final = 3_000_000
"""Candidates that are enumerated at most (12 parameters: 72 MB); a larger space is sampled."""

_BLOCK: Final = 1_000_000
"""Rows expanded at a time, which bounds the memory that a late rule would otherwise cost."""

_DESIGNS: Final = 256
"""Random designs among which the one with the most distant points starts a study."""
_POOL: Final = 1024
"""Random candidates that the designs are made of."""


@dataclass(frozen=True, eq=False)
class Candidates:
    """The valid configurations of a space.

    Attributes:
        space: their space.
        rows: shape (n, d), see above.
        complete: whether these are all; else a uniform sample with the default's neighbourhood, and
            `neighbours` may lead to valid rows outside of it.
    """

    space: Space
    rows: Rows
    complete: bool

    @classmethod
    def of(cls, space: Space, *, limit: int = DEFAULT_LIMIT, seed: int = 0) -> Candidates:
        """Enumerates the valid configurations of `space`, or draws about `limit` of them where there are more.

        Raises:
            SpaceError: no configuration is valid; it names the rules that rule out most.
        """
        order = _expansion_order(space)
        rows = np.zeros((1, 0), dtype=np.int16)
        placed: list[int] = []
        complete = True
        generator = np.random.default_rng(seed)
        for column in order:
            rules = [rule for rule in space.rules if _decided_by(space, rule, column, placed)]
            rows, cut = _expand(space, rows, placed, column, rules, limit, generator)
            complete = complete and not cut
            placed.append(column)
            if not len(rows):
                raise SpaceError(_why_empty(space, complete))
        rows = rows[:, np.argsort(placed)]
        if not complete:
            rows = _with_default_neighbourhood(space, rows)
        return cls(space, np.ascontiguousarray(rows), complete)

    def __len__(self) -> int:
        return len(self.rows)

    def config(self, position: int) -> Config:
        """The configuration at `position`."""
        return config_of(self.space, self.rows[position])

    def position(self, config: Config) -> int | None:
        """Where `config` stands, or `None` when it is not among the candidates."""
        found = self.positions(row_of(self.space, config)[None])[0]
        return None if found < 0 else int(found)

    def positions(self, rows: Rows) -> Positions:
        """Where `rows`, shape (m, d), stand; -1 for those that are not among the candidates."""
        found = np.full(len(rows), -1, dtype=np.int64)
        for number, (code, row) in enumerate(zip(_codes(self.space, rows), rows, strict=True)):
            # Codes of a huge space may wrap around, so that equal codes are only probably the same row.
            same = [at for at in np.flatnonzero(self._row_codes == code) if np.array_equal(self.rows[at], row)]
            if same:
                found[number] = same[0]
        return found

    @functools.cached_property
    def default_position(self) -> int:
        """The engine's default, or, where that is invalid, the candidate nearest to it.

        Nearest is the fewest changed parameters, then the smallest changes, then the first.
        """
        exact = self.position(self.space.default)
        if exact is not None:
            return exact
        target = row_of(self.space, self.space.default)[None]
        changed = (levels(self.space, self.rows) != levels(self.space, target)).sum(axis=1)
        nearest = np.flatnonzero(changed == changed.min())
        distance = np.abs(encode(self.space, self.rows[nearest]) - encode(self.space, target)).sum(axis=1)
        return int(nearest[int(np.argmin(distance))])

    def nearest(self, rows: Rows, allowed: npt.NDArray[np.bool_] | None = None) -> int:
        """The candidate nearest to one row of any kind, shape (1, d), valid or not.

        Args:
            rows: the row.
            allowed: shape (n,), candidates to choose from; all by default, at least one true.
        """
        choices = np.arange(len(self)) if allowed is None else np.flatnonzero(allowed)
        distance = np.abs(encode(self.space, self.rows[choices]) - encode(self.space, rows)).sum(axis=1)
        return int(choices[int(np.argmin(distance))])

    def neighbours(self, rows: Rows) -> Rows:
        """All valid rows one step away from any of `rows`, without `rows` themselves, shape (m, d).

        A step moves one parameter to an adjacent value (to any other value where it is categorical);
        parameters that become active start at their default.
        """
        return neighbours(self.space, rows)

    def space_filling(self, count: int, seed: int) -> Positions:
        """`count` candidates that are spread out, the engine's default (or nearest to it) first.

        Of many random designs, the one whose closest two points are farthest apart: unlike a greedy
        choice of the most distant point, it does not seek the corners of the space, where servers run
        out of memory.
        """
        count = min(count, len(self))
        generator = np.random.default_rng([seed, 1])
        first = self.default_position
        if count == 1:
            return np.array([first])
        pool = generator.choice(len(self), size=min(len(self), _POOL), replace=False)
        pool = np.concatenate([[first], pool[pool != first]])
        others = generator.random((_DESIGNS, len(pool) - 1)).argsort(axis=1)[:, : count - 1] + 1
        designs = np.concatenate([np.zeros((_DESIGNS, 1), dtype=np.int64), others], axis=1)
        points = encode(self.space, self.rows[pool])[designs]
        left, right = np.triu_indices(count, 1)
        closest = np.abs(points[:, left] - points[:, right]).sum(axis=-1).min(axis=1)
        best: Positions = pool[designs[int(np.argmax(closest))]]
        return best

    @functools.cached_property
    def _row_codes(self) -> Positions:
        return _codes(self.space, self.rows)


def row_of(space: Space, config: Config) -> Rows:
    """A configuration as a row, shape (d,).

    Raises:
        SpaceError: a value is outside its parameter's domain.
    """
    return np.array(
        [
            parameter.index(config[parameter.name]) if parameter.name in config else INACTIVE
            for parameter in space.parameters
        ],
        dtype=np.int16,
    )


def config_of(space: Space, row: Rows) -> Config:
    """The configuration that a row, shape (d,), stands for; undoes `row_of`."""
    return Config(
        {
            parameter.name: parameter.values[level]
            for parameter, level in zip(space.parameters, row.tolist(), strict=True)
            if level != INACTIVE
        }
    )


def levels(space: Space, rows: Rows) -> Rows:
    """`rows` with inactive parameters at their default, shape (n, d): what surrogates are given."""
    return np.where(rows == INACTIVE, _defaults(space), rows)


def coordinates(parameter: Parameter) -> Matrix:
    """Where a numeric parameter's values lie in [0, 1] on its scale, shape (number of values,).

    On a log scale a zero stands as far below the smallest positive value as that does below the next.
    """
    numbers = np.array([float(value) for value in parameter.values])
    if parameter.scale.value == "log":
        positive = numbers[numbers > 0]
        step = positive[1] / positive[0] if len(positive) > 1 else 2.0
        numbers = np.log(np.where(numbers > 0, numbers, (positive[0] if len(positive) else 1.0) / step))
    span = numbers[-1] - numbers[0]
    return np.zeros(len(numbers)) if span == 0 else (numbers - numbers[0]) / span


def encode(space: Space, rows: Rows) -> Matrix:
    """Rows as points of [0, 1]^p, inactive parameters at their default, shape (n, p).

    A numeric parameter is one column; a categorical one of three or more values is one-hot with halves,
    so that two values of it are one apart in the sum of absolute differences.
    """
    filled = levels(space, rows)
    columns: list[Matrix] = []
    for number, parameter in enumerate(space.parameters):
        if parameter.scale.value != "categorical":
            columns.append(coordinates(parameter)[filled[:, number]][:, None])
        elif len(parameter.values) == 2:
            columns.append(filled[:, number, None].astype(np.float64))
        elif len(parameter.values) > 2:
            columns.append(0.5 * np.eye(len(parameter.values))[filled[:, number]])
    return np.concatenate(columns, axis=1) if columns else np.zeros((len(rows), 1))


def neighbours(space: Space, rows: Rows) -> Rows:
    """See `Candidates.neighbours`."""
    found: dict[bytes, Rows] = {}
    known = {row.tobytes() for row in rows}
    for row in rows:
        values: Mapping[str, Value] = space.complete(config_of(space, row))
        for number, parameter in enumerate(space.parameters):
            level = int(row[number])
            if level == INACTIVE:
                continue
            if parameter.scale.value == "categorical":
                steps: Sequence[int] = [other for other in range(len(parameter.values)) if other != level]
            else:
                steps = [other for other in (level - 1, level + 1) if 0 <= other < len(parameter.values)]
            for step in steps:
                config = space.config({**values, parameter.name: parameter.values[step]})
                moved = row_of(space, config)
                key = moved.tobytes()
                if key not in known and key not in found and not space.violations(config):
                    found[key] = moved
    return np.array(list(found.values()), dtype=np.int16).reshape(len(found), len(space.parameters))


def _defaults(space: Space) -> Rows:
    return np.array([parameter.index(parameter.default) for parameter in space.parameters], dtype=np.int16)


def _codes(space: Space, rows: Rows) -> Positions:
    """One number per row; equal rows have equal codes, and different ones too below 2^63 combinations."""
    codes = np.zeros(len(rows), dtype=np.int64)
    with np.errstate(over="ignore"):
        for number, parameter in enumerate(space.parameters):
            codes *= len(parameter.values) + 1
            codes += rows[:, number] + 1
    return codes


def _expansion_order(space: Space) -> list[int]:
    """Columns in an order that lets rules bind early: those that rules speak of first, with their conditions."""
    number = {parameter.name: position for position, parameter in enumerate(space.parameters)}
    order: list[int] = []

    def place(name: str) -> None:
        if number[name] in order:
            return
        for condition in space[name].active_when:
            place(condition.parameter)
        order.append(number[name])

    for rule in sorted(space.rules, key=lambda rule: len(rule.over)):
        for name in rule.over:
            place(name)
    for name in space.names:
        place(name)
    return order


def _decided_by(space: Space, rule: Rule, column: int, placed: Sequence[int]) -> bool:
    """Whether `column` is the last parameter that the rule waits for."""
    names = {space.parameters[number].name for number in placed}
    last = space.parameters[column].name
    return set(rule.over) <= names | {last} and (last in rule.over or (not rule.over and not placed))


def _expand(
    space: Space,
    rows: Rows,
    placed: Sequence[int],
    column: int,
    rules: Sequence[Rule],
    limit: int,
    generator: np.random.Generator,
) -> tuple[Rows, bool]:
    """`rows` with every value of one more parameter, without what `rules` forbid; and whether some were left out."""
    parameter = space.parameters[column]
    kept: list[Rows] = []
    columns = [*placed, column]
    block = max(1, _BLOCK // len(parameter.values))
    for start in range(0, len(rows), block):
        part = rows[start : start + block]
        active = _active(space, parameter, part, placed)
        counts = np.where(active, len(parameter.values), 1)
        first = np.repeat(np.cumsum(counts) - counts, counts)
        values = np.where(np.repeat(active, counts), np.arange(len(first)) - first, INACTIVE)
        grown = np.concatenate([np.repeat(part, counts, axis=0), values[:, None].astype(np.int16)], axis=1)
        for rule in rules:
            grown = grown[_holds(space, rule, grown, columns)]
        kept.append(grown)
    grown = np.concatenate(kept)
    if len(grown) <= limit:
        return grown, False
    chosen = np.sort(generator.choice(len(grown), size=limit, replace=False))
    return grown[chosen], True


def _active(space: Space, parameter: Parameter, rows: Rows, placed: Sequence[int]) -> npt.NDArray[np.bool_]:
    active = np.ones(len(rows), dtype=bool)
    for condition in parameter.active_when:
        other = space[condition.parameter]
        truth = np.array([*(condition.holds({other.name: value}) for value in other.values), False])
        at = placed.index(space.names.index(other.name))
        active &= truth[rows[:, at]]  # INACTIVE is -1 and so reads the last entry
    return active


def _holds(space: Space, rule: Rule, rows: Rows, columns: Sequence[int]) -> npt.NDArray[np.bool_]:
    """Which rows the rule allows, calling it once per combination of its parameters that occurs."""
    names = list(dict.fromkeys(rule.over))
    parameters = [space[name] for name in names]
    at = [columns.index(space.names.index(name)) for name in names]
    if not names:
        return np.full(len(rows), rule.holds(), dtype=bool)
    combinations, inverse = _unique_rows(rows[:, at], [len(parameter.values) + 1 for parameter in parameters])
    truth = np.array([rule.holds(**_values(parameters, combination)) for combination in combinations], dtype=bool)
    return truth[inverse]


def _values(parameters: Sequence[Parameter], row: Rows) -> dict[str, Value | None]:
    return {
        parameter.name: None if level == INACTIVE else parameter.values[level]
        for parameter, level in zip(parameters, row.tolist(), strict=True)
    }


def _unique_rows(rows: Rows, sizes: Sequence[int]) -> tuple[Rows, Positions]:
    """Distinct rows, and for each row its position among them; `sizes` count the values per column, -1 included."""
    if math.prod(sizes) >= 2**62:
        distinct, inverse = np.unique(rows, axis=0, return_inverse=True)
        return distinct, inverse.reshape(-1)
    codes = np.zeros(len(rows), dtype=np.int64)
    for number, size in enumerate(sizes):
        codes = codes * size + rows[:, number] + 1
    _, first, inverse = np.unique(codes, return_index=True, return_inverse=True)
    return rows[first], inverse.reshape(-1)


def _with_default_neighbourhood(space: Space, rows: Rows) -> Rows:
    """A sample, and the engine's default with all that is one step from it."""
    default = row_of(space, space.default)[None]
    near = neighbours(space, default)
    if not space.violations(space.default):
        near = np.concatenate([default, near])
    known = {row.tobytes() for row in rows[np.isin(_codes(space, rows), _codes(space, near))]}
    fresh = np.array([row for row in near if row.tobytes() not in known], dtype=np.int16)
    return np.concatenate([rows, fresh.reshape(-1, rows.shape[1])])


def _why_empty(space: Space, complete: bool) -> str:
    """Names the rules that rule out most, each taken alone."""
    shares: list[tuple[float, Rule]] = []
    for rule in space.rules:
        rows = _rows_over(space, rule)
        shares.append((1.0 - float(_holds(space, rule, rows, range(len(space.parameters))).mean()), rule))
    shares.sort(key=lambda item: -item[0])
    worst = [f"{rule.says} (rules out {share:.0%})" for share, rule in shares[:3] if share > 0]
    alone = [rule for share, rule in shares if share == 1.0]
    found = "No configuration is valid" if complete else "No valid configuration was found in a large sample"
    if alone:
        names = "; ".join(rule.says for rule in alone[:3])
        return f"{found}: nothing satisfies {names}. Widen {_over(alone[0])}."
    return f"{found}: the rules leave nothing together: {'; '.join(worst)}. Widen {_over(shares[0][1])}."


def _over(rule: Rule) -> str:
    return " or ".join(repr(name) for name in rule.over) or "the space"


def _rows_over(space: Space, rule: Rule) -> Rows:
    """Every combination of a rule's parameters and their conditions, others at their default."""
    needed = set(rule.over)
    for parameter in reversed(space.parameters):
        if parameter.name in needed:
            needed |= {condition.parameter for condition in parameter.active_when}
    narrowed = Space(
        parameters=tuple(
            parameter
            if parameter.name in needed
            else Parameter(name=parameter.name, values=(parameter.default,), default=parameter.default)
            for parameter in space.parameters
        )
    )
    rows = Candidates.of(narrowed, limit=100_000).rows
    defaults = _defaults(space)
    for number, parameter in enumerate(space.parameters):
        if parameter.name not in needed:
            rows[:, number] = np.where(rows[:, number] == INACTIVE, INACTIVE, defaults[number])
    return rows
