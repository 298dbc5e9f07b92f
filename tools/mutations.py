"""Single faults that somebody might write, found in a module's syntax tree.

A mutant replaces one stretch of the text, so that its difference is one line and everything else
stays as it was. Left out is what changes nothing that a run computes: docstrings, annotations and
names of types, the text of messages, `__all__`, blocks under ``TYPE_CHECKING``, arguments of
`dataclass`, ``strict=True`` of zip, encodings, and logging.

>>> str(mutants("m.py", "small = size < 3")[0])
'm.py:1 comparison: size < 3 → size <= 3'
"""

import ast
import random
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from tools.mutation_tables import (
    ARITHMETIC,
    COMPARISONS,
    KEPT_DECORATORS,
    OPPOSITES,
    SIGNS,
    SILENT_CALLS,
    SILENT_KEYWORDS,
    WORDS,
)


@dataclass(frozen=True)
class Mutant:
    """One fault: in ``path`` the text from ``start`` to ``end`` (characters) is replaced."""

    path: str
    line: int
    operator: str
    start: int
    end: int
    before: str
    after: str

    def applied(self, text: str) -> str:
        """The module with the fault in it."""
        return text[: self.start] + self.after + text[self.end :]

    def __str__(self) -> str:
        return f"{self.path}:{self.line} {self.change}"

    @property
    def change(self) -> str:
        """What is changed into what, on one line."""
        before, after = (" ".join(part.split()) for part in (self.before, self.after))
        return f"{self.operator}: {before} → {after}"


def mutants(path: str, text: str) -> list[Mutant]:
    """Every fault that can be planted in ``text``, in its order."""
    return list(_Finder(path, text).found())


def sample(modules: dict[str, str], number: int, *, seed: int) -> list[Mutant]:
    """At most one fault for each place in the text of ``modules``, ``number`` of them at random."""
    rng = random.Random(seed)
    places: defaultdict[tuple[str, int, int], list[Mutant]] = defaultdict(list)
    for path in sorted(modules):
        for mutant in mutants(path, modules[path]):
            places[path, mutant.start, mutant.end].append(mutant)
    one_each = [rng.choice(places[place]) for place in sorted(places)]
    rng.shuffle(one_each)
    return one_each[:number]


class _Finder:
    def __init__(self, path: str, text: str) -> None:
        self.path, self.text = path, text
        self.tree = ast.parse(text)
        lines = text.splitlines(keepends=True)
        self.lines = [line.encode() for line in lines]
        self.line_start = [sum(map(len, lines[:i])) for i in range(len(lines) + 1)]

    def found(self) -> Iterator[Mutant]:
        for node in _looked_at(self.tree):
            for start, end, operator, after in self._faults(node):
                before = self.text[start:end]
                if after != before:
                    yield Mutant(self.path, self._line(start), operator, start, end, before, after)

    def _faults(self, node: ast.AST) -> Iterator[tuple[int, int, str, str]]:
        match node:
            case ast.Compare(ops=[op], left=left, comparators=[right]):
                for other in COMPARISONS[type(op)]:
                    yield self._between("comparison", left, right, SIGNS[type(op)], other)
            case ast.BinOp(left=left, op=op, right=right) if not _is_text(left, right):
                for other in ARITHMETIC.get(type(op), ()):
                    yield self._between("arithmetic", left, right, SIGNS[type(op)], other)
            case ast.AugAssign(target=target, op=op, value=value):
                for other in ARITHMETIC.get(type(op), ()):
                    yield self._between("arithmetic", target, value, SIGNS[type(op)], other)
            case ast.UnaryOp(op=ast.Not() | ast.USub() as op):
                start, end = self._at(node)
                sign = "not " if isinstance(op, ast.Not) else "-"
                yield start, end, "negation", self.text[start + len(sign) : end]
            case ast.BoolOp(op=op, values=values):
                word = " or " if isinstance(op, ast.And) else " and "
                yield self._put(node, "boolean", f"({word.join(self._grouped(v) for v in values)})")
            case ast.If(test=test) | ast.While(test=test) | ast.IfExp(test=test):
                yield self._put(test, "negation", f"(not ({self._of(test)}))")
            case ast.Constant(value=value):
                yield from ((*self._at(node), "constant", v) for v in _other_constants(value))
            case ast.Name(id=name) if name in OPPOSITES:
                yield self._put(node, "opposite", OPPOSITES[name])
            case ast.Attribute(value=value, attr=name) if name in OPPOSITES:
                yield self._put(node, "opposite", f"{self._of(value)}.{OPPOSITES[name]}")
            case ast.Expr(value=ast.Call()) | ast.Raise() | ast.Delete():
                yield self._put(node, "statement dropped", "pass")
            case ast.Return(value=ast.expr() as value) if not _is_none(value):
                yield self._put(node, "return", "return None")
            case ast.Break():
                yield self._put(node, "loop", "continue")
            case ast.Continue():
                yield self._put(node, "loop", "break")
            case ast.With(items=items):
                for item in items:
                    if item.optional_vars is None:
                        nothing = "__import__('contextlib').nullcontext()"
                        yield self._put(item.context_expr, "context dropped", nothing)
            case ast.FunctionDef(decorator_list=decorators):
                for decorator in decorators:
                    start, end = self._at(decorator)
                    if not any(word in self.text[start:end] for word in KEPT_DECORATORS):
                        yield start - 1, end, "decorator removed", ""
            case _:
                pass
        if isinstance(node, ast.Call):
            yield from self._call_faults(node)

    def _call_faults(self, node: ast.Call) -> Iterator[tuple[int, int, str, str]]:
        parts = [*node.args, *node.keywords]
        for index, part in enumerate(parts):
            if isinstance(part, ast.keyword) and part.arg and part.arg not in SILENT_KEYWORDS:
                kept = [self._of(p) for p in parts[:index] + parts[index + 1 :]]
                changed = f"{self._of(node.func)}({', '.join(kept)})"
                yield self._put(node, f"argument {part.arg} removed", changed)
        plain = [a for a in node.args[:2] if not isinstance(a, ast.Starred | ast.GeneratorExp)]
        if len(plain) == 2 and self._of(plain[0]) != self._of(plain[1]):
            kept = [self._of(p) for p in (plain[1], plain[0], *parts[2:])]
            yield self._put(node, "arguments swapped", f"{self._of(node.func)}({', '.join(kept)})")

    def _between(
        self, operator: str, left: ast.AST, right: ast.AST, sign: str, other: str
    ) -> tuple[int, int, str, str]:
        """Another sign between two operands; parentheses stay as they are."""
        start, end = self._at(left)[0], self._at(right)[1]
        first, last = self._at(left)[1], self._at(right)[0]
        gap = self.text[first:last].replace(sign, other, 1)
        return start, end, operator, self._of(left) + gap + self._of(right)

    def _put(self, node: ast.AST, operator: str, after: str) -> tuple[int, int, str, str]:
        return *self._at(node), operator, after

    def _at(self, node: ast.AST) -> tuple[int, int]:
        spot: ast.expr = node  # type: ignore[assignment]
        assert spot.end_lineno is not None
        assert spot.end_col_offset is not None
        return (
            self._offset(spot.lineno, spot.col_offset),
            self._offset(spot.end_lineno, spot.end_col_offset),
        )

    def _offset(self, line: int, column: int) -> int:
        return self.line_start[line - 1] + len(self.lines[line - 1][:column].decode())

    def _of(self, node: ast.AST) -> str:
        start, end = self._at(node)
        return self.text[start:end]

    def _grouped(self, node: ast.AST) -> str:
        return (
            f"({self._of(node)})"
            if isinstance(node, ast.BoolOp | ast.NamedExpr | ast.IfExp | ast.Lambda)
            else self._of(node)
        )

    def _line(self, offset: int) -> int:
        return self.text.count("\n", 0, offset) + 1


def _looked_at(tree: ast.AST) -> Iterator[ast.AST]:
    """The tree's nodes that compute something."""
    yield tree
    for name, value in ast.iter_fields(tree):
        if name in ("annotation", "returns", "type_params", "bases"):
            continue
        children: Iterable[object] = value if isinstance(value, list) else [value]
        for child in children:
            if isinstance(child, ast.AST) and not _is_passed_over(child):
                yield from _looked_at(child)


def _is_passed_over(node: ast.AST) -> bool:
    match node:
        case ast.Import() | ast.ImportFrom() | ast.JoinedStr() | ast.Assert():
            return True
        case ast.Expr(value=ast.Constant()):  # a docstring
            return True
        case ast.Expr(value=ast.Call(func=ast.Attribute(attr=name))) if name in SILENT_CALLS:
            return True
        case ast.If(test=ast.Name(id="TYPE_CHECKING")):
            return True
        case ast.Assign(targets=[ast.Name(id="__all__")]):
            return True
        case ast.Assign(value=ast.Subscript(value=ast.Name(id=name))):  # another name of a type
            return name in ("Callable", "Literal", "dict", "list", "tuple", "Mapping")
        case ast.keyword(arg=name):
            return name in SILENT_KEYWORDS
        case ast.Call(func=ast.Name(id="dataclass" | "cast" | "InputError" | "TypeVar")):
            return True
        case _:
            return False


def _other_constants(value: object) -> Iterator[str]:
    if isinstance(value, bool):
        yield repr(not value)
    elif isinstance(value, int):
        yield from dict.fromkeys((repr(value + 1), repr(value - 1), repr(value * 2), "0"))
    elif isinstance(value, float):
        yield from dict.fromkeys((repr(value + 1), repr(value * 2), repr(value / 2), "0.0"))
    elif isinstance(value, str):
        families = [words for words in WORDS if value in words]
        yield from dict.fromkeys(repr(w) for words in families for w in words if w != value)


def _is_text(*nodes: ast.AST) -> bool:
    return any(
        isinstance(node, ast.JoinedStr)
        or (isinstance(node, ast.Constant) and isinstance(node.value, str | bytes))
        for node in nodes
    )


def _is_none(node: ast.AST) -> bool:
    return isinstance(node, ast.Constant) and node.value is None
