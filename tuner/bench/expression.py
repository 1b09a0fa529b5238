"""Column expressions of task files: the arithmetic and comparisons of pandas `eval`, and nothing else.

An expression is parsed to a syntax tree, the tree is checked node by node against a short list, and only
then is it computed on arrays. Names are columns, in backticks where they are no plain words; there are no
attributes, subscripts or foreign calls, so a task file from anywhere can be read safely.
"""

from __future__ import annotations

import ast
import io
import operator
import re
import tokenize
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tuner.errors import UsageError, did_you_mean

Column = NDArray[Any]
"""One column: numbers, booleans or strings (dtype object)."""

_BINARY: Mapping[type[ast.operator], Callable[[Any, Any], Any]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv,
    ast.Mod: operator.mod,
    ast.Pow: operator.pow,
}
_COMPARE: Mapping[type[ast.cmpop], Callable[[Any, Any], Any]] = {
    ast.Lt: operator.lt,
    ast.LtE: operator.le,
    ast.Gt: operator.gt,
    ast.GtE: operator.ge,
    ast.Eq: operator.eq,
    ast.NotEq: operator.ne,
}
_FUNCTIONS: Mapping[str, Callable[[Any], Any]] = {
    "abs": np.abs,
    "sqrt": np.sqrt,
    "exp": np.exp,
    "log": np.log,
    "log10": np.log10,
    "log2": np.log2,
}
_LONGEST = 1000
_QUOTED = "_backticks_"
_BACKTICKS = re.compile(r"""'[^']*'|"[^"]*"|`(?P<name>[^`]+)`""")


class ExpressionError(UsageError):
    """An expression that does not parse, or uses what is not allowed."""


@dataclass(frozen=True, slots=True)
class Expression:
    """A checked expression over columns.

    Attributes:
        text: as written.
    """

    text: str

    def __post_init__(self) -> None:
        _check(_parse(self.text), self.text)

    @property
    def columns(self) -> tuple[str, ...]:
        """Names of the columns that it reads, in name order."""
        tree = _parse(self.text)
        called = {id(node.func) for node in ast.walk(tree) if isinstance(node, ast.Call)}
        names = {_column(node.id) for node in ast.walk(tree) if isinstance(node, ast.Name) and id(node) not in called}
        return tuple(sorted(names))

    def evaluate(self, columns: Mapping[str, Column], rows: int) -> Column:
        """Its value in every row, shape (rows,).

        Raises:
            ExpressionError: a column is unknown, or its type does not bear the operation.
        """
        for name in self.columns:
            if name not in columns:
                raise ExpressionError(f"{self.text!r} reads the column {name!r}. {did_you_mean(name, columns)}")
        if not rows:
            return np.zeros(0, bool)  # columns without values have no type
        try:
            with np.errstate(all="ignore"):
                value = _value(_parse(self.text).body, columns)
        except (TypeError, ValueError, ZeroDivisionError, OverflowError) as error:
            raise ExpressionError(f"{self.text!r} cannot be computed: {error}.") from error
        return np.broadcast_to(np.asarray(value), (rows,))

    def numbers(self, columns: Mapping[str, Column], rows: int) -> NDArray[np.float64]:
        """Its value as numbers, shape (rows,).

        Raises:
            ExpressionError: as `evaluate`, or the values are no numbers.
        """
        value = self.evaluate(columns, rows)
        if value.dtype.kind not in "iufb":
            found = repr(first_word(value.tolist()))
            raise ExpressionError(f"{self.text!r} gives no numbers, but {found}. Correct it, or drop it with `where`.")
        return value.astype(np.float64)

    def truths(self, columns: Mapping[str, Column], rows: int) -> NDArray[np.bool_]:
        """Its value as truths, shape (rows,).

        Raises:
            ExpressionError: as `evaluate`, or the values are neither true nor false.
        """
        value = self.evaluate(columns, rows)
        if value.dtype.kind != "b" and not all(isinstance(item, bool | np.bool_) for item in value.tolist()):
            raise ExpressionError(f"{self.text!r} is a quantity, where a condition such as `status == 'ok'` is needed.")
        return value.astype(np.bool_)


def first_word(values: Sequence[object]) -> object:
    """The value that keeps a column from being numbers; where one does, all of it is read as words."""
    for value in values:
        try:
            float(str(value))
        except ValueError:
            return value
    return values[0]


def _as_identifier(match: re.Match[str]) -> str:
    """A quoted word as it is, a column in backticks as a name that Python can parse."""
    name: str | None = match["name"]
    return match[0] if name is None else _QUOTED + name.encode().hex()


def _column(identifier: str) -> str:
    """The column that a name of the parsed expression stands for."""
    if not identifier.startswith(_QUOTED):
        return identifier
    return bytes.fromhex(identifier.removeprefix(_QUOTED)).decode()


def _parse(text: str) -> ast.Expression:
    if len(text) > _LONGEST:
        raise ExpressionError(f"An expression of {len(text)} characters is too long. Write at most {_LONGEST}.")
    try:
        # As in pandas, & and | bind like `and` and `or`, below comparisons.
        plain = _BACKTICKS.sub(_as_identifier, " ".join(text.split()))
        for token in reversed(list(tokenize.generate_tokens(io.StringIO(plain).readline))):
            if token.string in ("&", "|"):
                word = " and " if token.string == "&" else " or "
                plain = plain[: token.start[1]] + word + plain[token.end[1] :]
        return ast.parse(plain, mode="eval")
    except (SyntaxError, tokenize.TokenError, ValueError, RecursionError, MemoryError) as error:
        raise ExpressionError(f"{text!r} does not parse: {error}.") from error


def _check(tree: ast.Expression, text: str) -> None:
    lists = {id(right) for node in ast.walk(tree) if isinstance(node, ast.Compare) for right in _members(node)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Expression | ast.Name | ast.expr_context | ast.operator | ast.unaryop):
            continue
        if isinstance(node, ast.BinOp) and type(node.op) in _BINARY:
            continue
        if isinstance(node, ast.UnaryOp | ast.BoolOp | ast.boolop | ast.cmpop):
            continue
        if isinstance(node, ast.Compare) and all(
            type(op) in _COMPARE or (isinstance(op, ast.In | ast.NotIn) and isinstance(right, ast.List | ast.Tuple))
            for op, right in zip(node.ops, node.comparators, strict=True)
        ):
            continue
        if isinstance(node, ast.Constant) and isinstance(node.value, bool | int | float | str):
            continue
        if isinstance(node, ast.List | ast.Tuple) and id(node) in lists and all(map(_is_literal, node.elts)):
            continue
        if (
            isinstance(node, ast.Call)
            and isinstance(node.func, ast.Name)
            and node.func.id in _FUNCTIONS
            and len(node.args) == 1
            and not node.keywords
        ):
            continue
        raise ExpressionError(
            f"{text!r} uses {type(node).__name__}, which is not allowed. Write columns, numbers, quoted words, "
            f"+ - * / // % **, comparisons, and, or, not, in [...], and {', '.join(_FUNCTIONS)}."
        )


def _members(node: ast.Compare) -> list[ast.expr]:
    """What stands at the right of tests of membership, of which equality is one."""
    tests = ast.In | ast.NotIn | ast.Eq | ast.NotEq
    return [right for op, right in zip(node.ops, node.comparators, strict=True) if isinstance(op, tests)]


def _is_literal(node: ast.expr) -> bool:
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub | ast.UAdd):
        node = node.operand
    return isinstance(node, ast.Constant)


def _value(node: ast.expr, columns: Mapping[str, Column]) -> Any:
    match node:
        case ast.Name(id=name):
            return columns[_column(name)]
        case ast.Constant(value=value):
            return value
        case ast.List(elts=items) | ast.Tuple(elts=items):
            return [_value(item, columns) for item in items]
        case ast.BinOp(left=left, op=op, right=right):
            return _BINARY[type(op)](_number(left, columns), _number(right, columns))
        case ast.UnaryOp(op=ast.Not() | ast.Invert(), operand=operand):
            return np.logical_not(_value(operand, columns))
        case ast.UnaryOp(op=op, operand=operand):
            value = _number(operand, columns)
            return -value if isinstance(op, ast.USub) else value
        case ast.BoolOp(op=op, values=values):
            join = np.logical_and if isinstance(op, ast.And) else np.logical_or
            result = _value(values[0], columns)
            for item in values[1:]:
                result = join(result, _value(item, columns))
            return result
        case ast.Compare(left=left, ops=ops, comparators=comparators):
            return _comparison(left, ops, comparators, columns)
        case ast.Call(func=ast.Name(id=name), args=[argument]):
            return _FUNCTIONS[name](_number(argument, columns))
    raise AssertionError(f"unchecked node {type(node).__name__}")


def _number(node: ast.expr, columns: Mapping[str, Column]) -> Any:
    value = np.asarray(_value(node, columns))
    if value.dtype.kind not in "iufb":
        raise TypeError(f"{ast.unparse(node)} holds words, not numbers")
    return value.astype(np.float64)


def _comparison(
    left: ast.expr, ops: list[ast.cmpop], comparators: list[ast.expr], columns: Mapping[str, Column]
) -> Any:
    value = _value(left, columns)
    result: Any = True
    for op, comparator in zip(ops, comparators, strict=True):
        right = _value(comparator, columns)
        # As in pandas, equality with a list is membership.
        equality = isinstance(op, ast.Eq | ast.NotEq) and isinstance(comparator, ast.List | ast.Tuple)
        if equality or isinstance(op, ast.In | ast.NotIn):
            member = np.any([np.asarray(value) == item for item in right], axis=0) if right else np.zeros(1, bool)
            found = np.logical_not(member) if isinstance(op, ast.NotIn | ast.NotEq) else member
        else:
            found = _COMPARE[type(op)](value, right)
        result = np.logical_and(result, found)
        value = right
    return result
