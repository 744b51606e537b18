"""Folds over the keys before or after each key of a row: running values of the walk.

    sum(l if visible(l) and l > j: x[l])     the keys after j: a walk from the last one has met them

does      recognises such folds; takes them out of the expressions of a pair, each once, as running
          values (see schedule.Running), and puts these among a pair's Lets in the order of use
needs     folds over the axis that a loop walks; conditions that compare two keys
does not  scan what depends on both keys, or take a running maximum of vectors
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import cast

from attnc.errors import UnsupportedError
from attnc.expressions.index import Index
from attnc.expressions.tree import Expr, position, postorder, substitute, value
from attnc.graph import conjuncts
from attnc.passes.bottom import implied
from attnc.passes.constants import identity
from attnc.passes.frame import Frame, widths_of
from attnc.passes.hoist import Names
from attnc.passes.separate import exchange
from attnc.passes.simplify import make
from attnc.schedule import Schedule, leaves
from attnc.schedule.statements import Let, Monoid, Running
from attnc.schedule.streams import StreamKernel

MIRRORED = {"gt": "lt", "lt": "gt", "ge": "le", "le": "ge"}


@dataclass(frozen=True)
class Scan:
    """A fold over the keys after (`later`) or before a key, that key among them (`inclusive`):
    its body and further conditions, over the walked index."""

    monoid: Monoid
    body: Expr
    conditions: tuple[Expr, ...]
    later: bool
    inclusive: bool


def scan_of(node: Expr, walked: Index) -> Scan | None:
    """The fold as a scan along `walked`, or None."""
    if node.op != "fold" or len(node.bound) != 1 or node.bound[0].axis is not walked.axis:
        return None
    (own,) = node.bound
    others = [index for index in node.free if index.axis is walked.axis]
    condition, body = node.args
    if len(others) != 1 or others[0] in body.free:
        return None
    (other,) = others
    tests = conjuncts(condition)
    between = [test for test in tests if other in test.free]
    if len(between) != 1 or between[0].op not in MIRRORED:
        return None
    order = between[0].op
    places = tuple(arg.attr if arg.op == "index" else None for arg in between[0].args)
    if places == (other, own):
        order = MIRRORED[order]
    elif places != (own, other):
        return None
    moves = {own: position(walked)}
    rest = tuple(
        substitute(test, moves)
        for test in tests
        if other not in test.free and not implied(test, node.monoid, body)
    )
    return Scan(
        cast("Monoid", node.monoid),
        substitute(body, moves),
        rest,
        order in ("gt", "ge"),
        order in ("ge", "le"),
    )


def compared(node: Expr, walked: Iterable[Index]) -> Scan | None:
    """The fold as a scan along the one of the walked indices that it is over, or None."""
    if node.op != "fold":
        return None
    own = (index for index in walked if index.axis is node.bound[0].axis)
    return next((scan_of(node, index) for index in own), None)


def scans_in(roots: Iterable[Expr], walked: Index) -> list[Scan]:
    """The scans of the expressions, those within scans among them."""
    found: list[Scan] = []
    stack = list(roots)
    seen: set[bytes] = set()
    while stack:
        for node in postorder(stack.pop()):
            if node.digest in seen:
                continue
            seen.add(node.digest)
            scan = scan_of(node, walked)
            if scan is not None:
                found.append(scan)
                stack += [scan.body, *scan.conditions]
    return found


@dataclass
class RunningValues:
    """The running values of one loop: `terms` are over the pair, in the order of their use."""

    frame: Frame
    walked: Index
    names: Names
    visible: tuple[Expr, ...]
    found: dict[Scan, tuple[str, Expr]] = field(default_factory=dict)

    @property
    def backward(self) -> bool:
        """Whether the keys are walked from the last to the first: as what cannot be known ahead
        asks, or the first value, which others may be made of."""
        fixed = [scan for scan in self.found if scan.monoid != "sum"] or list(self._inmost())
        return bool(fixed) and fixed[0].later

    def _inmost(self) -> Iterable[Scan]:
        """Those that no other running value is part of."""
        names = {name for name, _ in self.found.values()}
        for scan, (_, term) in self.found.items():
            if not names & {str(n.attr) for n in postorder(term) if n.op == "value"}:
                yield scan

    def taken_from(self, expr: Expr) -> Expr:
        """The expression with its scans as values."""
        known: dict[bytes, Expr] = {}
        stack = [expr]
        while stack:
            node = stack.pop()
            scan = scan_of(node, self.walked)
            if scan is None:
                stack.extend(node.args)
            elif node.digest not in known:
                known[node.digest] = self._value(scan)
        return exchange(expr, known) if known else expr

    def _value(self, scan: Scan) -> Expr:
        if scan not in self.found:
            self.found[scan] = (self.names.fresh("running"), self._term(scan))
        over = (*self.frame.outer, self.frame.held, self.walked)
        found = value(self.found[scan][0], "real", over)
        return make("to_int", found) if scan.body.kind == "int" else found

    def _term(self, scan: Scan) -> Expr:
        known = (*self.frame.outer, self.frame.held, self.walked)
        if widths_of(scan.body, known):
            raise refused("vectors summed over the keys before each key")
        term = self.taken_from(scan.body)
        if term.kind == "int":
            term = make("to_real", term)
        for condition in scan.conditions:
            if condition not in self.visible:
                unit = identity(scan.monoid, "real")
                term = make("where", self.taken_from(condition), term, unit)
        return term

    def _is_ahead(self, scan: Scan) -> bool:
        return scan.later != self.backward

    def check(self) -> None:
        """Raises UnsupportedError for what no walk knows ahead: other folds than sums, sums of what
        is ahead itself."""
        ahead = {name for scan, (name, _) in self.found.items() if self._is_ahead(scan)}
        lets = {name: term for name, term in self.found.values()}
        for scan, (name, term) in self.found.items():
            if name not in ahead:
                continue
            if scan.monoid != "sum":
                raise refused("products or extrema over the keys before, and over those after")
            stack, seen = [term], set[str]()
            while stack:
                used = {str(n.attr) for n in postorder(stack.pop()) if n.op == "value"}
                if used & ahead:
                    raise refused("sums both ways of sums both ways")
                stack += [lets[one] for one in used - seen if one in lets]
                seen |= used

    def statements(self, terms: Iterable[Expr]) -> list[Let | Running]:
        """The running values, each once; `terms` are theirs as the loop computes them."""
        made: list[Let | Running] = []
        known: dict[Running, str] = {}
        for (scan, (name, _)), term in zip(self.found.items(), terms, strict=True):
            one = Running("", term, scan.monoid, scan.inclusive, self._is_ahead(scan))
            if one in known:
                over = (*self.frame.outer, self.frame.held, self.walked)
                made.append(Let(name, value(known[one], "real", over)))
                continue
            known[one] = name
            made.append(replace(one, name=name))
        return made


def repeats_for_rows(schedule: Schedule) -> bool:
    """Whether a value that runs along the keys is the same for every row: one sum made before
    the kernel spares each row a walk over all keys."""
    return any(
        isinstance(one, Running) and kernel.held not in one.expr.free
        for kernel in leaves(schedule.kernels)
        if isinstance(kernel, StreamKernel)
        for loop in kernel.loops
        for one in loop.pair_values
    )


def refused(feature: str) -> UnsupportedError:
    return UnsupportedError(f"key_scan: {feature}", "kernel", ("eager", "numpy"))


def in_order(lets: Iterable[Let], running: list[Let | Running]) -> tuple[Let | Running, ...]:
    """Statements such that each stands after those whose values it uses."""
    rest: list[Let | Running] = [*running, *lets]
    waiting = {statement.name for statement in rest}
    done: list[Let | Running] = []
    while rest:
        for statement in rest:
            used = {str(n.attr) for n in postorder(statement.expr) if n.op == "value"}
            if not used & waiting - {statement.name}:
                break
        else:
            raise AssertionError("statements in a circle")
        rest.remove(statement)
        waiting.remove(statement.name)
        done.append(statement)
    return tuple(done)
