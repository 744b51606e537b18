"""What one run of the checker keeps: diagnostics, fresh indices and names, axes, and the place
where definitions go that an expression needs.

The parts of the checker (reads, folds, operators, expansion, bodies) are functions over this
object; they call one another through it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Literal, TypeVar

from attnc import syntax
from attnc.check import messages as m
from attnc.check.library import Library
from attnc.check.values import Environment, Evaluate, Facts, Need
from attnc.errors import Diagnostic
from attnc.expressions import tree
from attnc.expressions.index import Axis, AxisForm, Index
from attnc.expressions.naming import numbered_name
from attnc.expressions.tree import Array, Expr, Kind, Role, position, substitute
from attnc.source import Source, Span
from attnc.spec import Block, Check, Definition, Input, Number, ReadCheck, Repeat

if TYPE_CHECKING:
    from attnc.check.bodies import ArrayEntity, BlockEntity, Body, Entity
    from attnc.check.bodies import Source as KeysOf
    from attnc.check.parameters import Frame

Statement = Definition | Repeat | Block
Scalar = int | float | bool
T = TypeVar("T")
Emits = tuple[Definition, ...]

MAX_DEPTH = 110  # evaluations inside one another: brackets, calls, expansions
MAX_WORK = 200_000  # evaluations in one check
MAX_EXPANSIONS = 1_000  # calls of defs in one check
MAX_DIAGNOSTICS = 100


class TooMuch(Exception):
    """A limit was passed and reported: nothing more is evaluated."""


@dataclass(eq=False)
class Checker:
    """One run over a file.

    evaluate     the value of an expression in an environment; None after an error
    library      defs and operators by name, as the file sees them
    statics      values of statics given from outside
    """

    source: Source
    library: Library
    statics: Mapping[str, Scalar]
    evaluate: Evaluate = field(init=False)
    prove: Callable[[Facts, Expr], bool] = field(init=False)
    demand: Callable[[ArrayEntity], Array | None] = field(init=False)
    clause: Callable[[Body, KeysOf, str], ArrayEntity | None] = field(init=False)
    emit: Callable[[Entity, syntax.Member], ArrayEntity | None] = field(init=False)
    statements: Callable[[Frame, Environment], bool] = field(init=False)
    block: Callable[[BlockEntity], bool] = field(init=False)
    everything: Callable[[Body], None] = field(init=False)
    emits: Callable[[Body], tuple[Emits, Emits]] = field(init=False)
    diagnostics: dict[Diagnostic, None] = field(default_factory=dict)
    outer: dict[Axis, Index] = field(default_factory=dict)
    coordinates: dict[Axis, list[str]] = field(default_factory=dict)
    spans_of: dict[bytes, tuple[Expr, Expr]] = field(default_factory=dict)
    labels: dict[bytes, str] = field(default_factory=dict)
    checks: list[Check] = field(default_factory=list)
    tellings: dict[bytes, str] = field(default_factory=dict)
    read_checks: list[ReadCheck] = field(default_factory=list)
    axes: list[Axis] = field(default_factory=list)
    ranges: dict[tuple[str, bytes, bytes], Axis] = field(default_factory=dict)
    names: set[str] = field(default_factory=set)
    counters: dict[str, int] = field(default_factory=dict)
    folds: dict[bytes, Expr] = field(default_factory=dict)
    definitions: dict[str, Definition] = field(default_factory=dict)
    proved: dict[tuple[bytes, frozenset[bytes]], bool] = field(default_factory=dict)
    randoms: dict[object, int] = field(default_factory=dict)
    sites: list[tuple[Span, str]] = field(default_factory=list)
    sinks: list[list[Statement]] = field(default_factory=list)
    memo: dict[object, object] = field(default_factory=dict)
    calling: list[syntax.Operator] = field(default_factory=list)
    active: list[ArrayEntity] = field(default_factory=list)
    inputs: list[Input] = field(default_factory=list)
    numbers: list[Number] = field(default_factory=list)
    in_update: bool = False
    serial: int = 0
    depth: int = 0
    expansions: int = 0
    work: int = 0

    # ------------------------------------------------------------------------------ diagnostics

    def report(self, diagnostic: Diagnostic) -> T | None:
        """Keeps a diagnostic; the same one twice counts once. Always None, the poisoned value of
        whatever was to be made."""
        self.diagnostics.setdefault(self._placed(diagnostic))
        if len(self.diagnostics) > MAX_DIAGNOSTICS:
            raise TooMuch
        return None

    def _placed(self, diagnostic: Diagnostic) -> Diagnostic:
        """A mistake that shows inside a def of another file is told at the call of that def."""
        if diagnostic.span.source is self.source:
            return diagnostic
        for span, name in reversed(self.sites):
            if span.source is self.source:
                said = f"in `{name}`: {diagnostic.message}"
                return replace(diagnostic, span=span, message=said)
        return diagnostic

    @property
    def failed(self) -> bool:
        return any(one.severity == "error" for one in self.diagnostics)

    @contextmanager
    def deeper(self, span: Span) -> Iterator[None]:
        """Guards one more evaluation inside another."""
        self.depth += 1
        self.work += 1
        try:
            if self.depth > MAX_DEPTH:
                self.report(m.expression_too_deep(span, MAX_DEPTH))
                raise TooMuch
            if self.work > MAX_WORK:
                self.report(m.expression_too_large(span, f"{MAX_WORK} parts"))
                raise TooMuch
            yield
        finally:
            self.depth -= 1

    # ---------------------------------------------------------------------------- fresh things

    def next_serial(self) -> int:
        self.serial += 1
        return self.serial

    def fresh(self, name: str, axis: Axis) -> Index:
        """An index that no other expression has."""
        count = self.counters.get(name, -1) + 1
        self.counters[name] = count
        return Index(name, axis, count)

    def unique(self, name: str) -> str:
        """A name that no other array or axis of the Spec has."""
        return numbered_name(name, self.names)

    def array(
        self, name: str, indices: Iterable[Index], kind: Kind, role: Role, span: Span
    ) -> Array:
        return Array(self.unique(name), tuple(indices), kind, role, span)

    # ------------------------------------------------------------------------------------ axes

    def new_axis(
        self,
        name: str,
        form: AxisForm = "measured",
        low: Expr | None = None,
        length: Expr | None = None,
        parts: tuple[Axis, ...] = (),
        of: Axis | None = None,
        shifted: Literal["", "offset", "key_offset"] = "",
    ) -> Axis:
        """An axis under `name`, or `name_2` where another axis of the Spec has that name."""
        taken = {axis.name for axis in self.axes}
        found = numbered_name(name, taken)
        axis = Axis(found, form, low, length, parts, of, shifted)
        self.axes.append(axis)
        return axis

    def range_axis(self, name: str, low: Expr | None, length: Expr) -> Axis:
        """The axis of `r < n` or `r in a .. b`: equal ranges of one name are one axis."""
        if low is not None and tree.is_number(low, 0):
            low = None
        key = (name, low.digest if low else b"", length.digest)
        if key not in self.ranges:
            self.ranges[key] = self.new_axis(name, "range", low, length)
        return self.ranges[key]

    def outer_index(self, axis: Axis) -> Index:
        """The index of an outer axis that all arrays share."""
        if axis not in self.outer:
            self.outer[axis] = self.fresh(axis.name, axis)
        return self.outer[axis]

    def outer_in_order(self) -> list[Index]:
        """The outer indices: b, h, then the groups as they were declared."""
        rank = {"b": 0, "h": 1}
        return sorted(self.outer.values(), key=lambda index: rank.get(index.axis.name, 2))

    def coarse_of(self, axis: Axis) -> list[Axis]:
        return [coarse for coarse in self.axes if coarse.form == "coarse" and coarse.of is axis]

    # ------------------------------------------------------------------------------ expressions

    def fold(self, monoid: str, bound: tuple[Index, ...], condition: Expr, body: Expr) -> Expr:
        """A fold; folds that differ in the names of bound indices only are one object."""
        return self.shared(tree.fold(monoid, bound, body, condition))

    def shared(self, node: Expr) -> Expr:
        """The first node of this form; `node` binds fresh indices."""
        blank = {
            index: position(Index("%", index.axis, place)) for place, index in enumerate(node.bound)
        }
        args = (substitute(arg, blank) if place < 2 else arg for place, arg in enumerate(node.args))
        assert isinstance(node.attr, tuple)
        head = [str(part) if not isinstance(part, Index) else part.axis.name for part in node.attr]
        names = [index.name for index in node.bound]
        text = "|".join((node.op, node.kind, *head, *names))
        form = text.encode() + b"".join(arg.digest for arg in args)
        return self.folds.setdefault(form, node)

    # ---------------------------------------------------------------------------- definitions

    @contextmanager
    def into(self, sink: list[Statement]) -> Iterator[None]:
        """Definitions made inside go to `sink`."""
        self.sinks.append(sink)
        memo, self.memo = self.memo, {}
        try:
            yield
        finally:
            self.sinks.pop()
            self.memo = memo

    def define(self, definition: Definition) -> None:
        self.sinks[-1].append(definition)
        self.definitions[definition.array.name] = definition

    def same_local(self, definition: Definition) -> Array | None:
        """The array of an equal local that stands before in the same statements, if there is one;
        else this one is remembered. (Lines of an update see states change: none is shared.)"""
        sink = self.sinks[-1]
        for other in sink:
            if not isinstance(other, Definition) or other.expr != definition.expr:
                continue
            if other.array.indices == definition.array.indices and not self.in_update:
                self.names.discard(definition.array.name)
                return other.array
        return None

    def names_param(self, expr: Expr) -> bool:
        """Whether a param (no static) occurs in an expression."""
        statics = {number.name for number in self.numbers if number.static}
        return any(node.op == "param" and node.attr not in statics for node in tree.postorder(expr))

    def drop_proved(self, needs: Iterable[Need], facts: Facts) -> tuple[Need, ...]:
        """The needs that do not follow from the facts."""
        return tuple(
            need for need in needs if not self.prove((*facts, *need.given), need.condition)
        )
