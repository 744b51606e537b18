"""Row values of a derivative: which are saved by the forward, which are computed before the loops.

A pair's value in a backward is a formula of the pair and of row values: sums over the keys of a row
that are finished (a total, the output), and sums over widths of such (delta). None of them is
computed again for a pair.

    saved        depends on the operator's inputs alone: an output of the forward itself where it is
                 equal to one, else a further output
    passed       depends on cotangents too and folds over keys: a loop over keys before the others
    summed       a sum over a width of cotangents and a saved row vector, as <g_i, out_i>: the sum
                 over the keys of what pairs compute again, sum_j p_ij <g_i, v_j>, in a loop before
                 the others (`out` is rounded to the dtype of the call), of terms less <g_i, out_i>
                 where the weights' sum is 1 (means)
    prepared     depends on cotangents, folds over widths only: a map

Values of keys that fold over rows are finished before, by loops that hold keys (see column_values).

A row value that may be any power of two is kept as mantissa and exponent, so that what is relative
to it is formed without overflow. (As one logarithm it would be rounded to its own size, and all
weights of a row would be off by that.)

does      replaces row values in expressions over the canonical indices by reads
needs     the forward's reductions
does not  choose kernels for pairs
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from attnc.expressions.canonical import canonical
from attnc.expressions.index import Index
from attnc.expressions.tree import (
    TRUE,
    Array,
    Expr,
    Role,
    fold,
    number,
    position,
    postorder,
    read,
    substitute,
)
from attnc.passes.column_values import with_columns
from attnc.passes.exponents import scaled
from attnc.passes.factors import ONE, ZERO, Factors, addends_of, factors_of, total
from attnc.passes.finish import Target
from attnc.passes.hoist import Names
from attnc.passes.means import less
from attnc.passes.nesting import nesting
from attnc.passes.reductions import Reductions
from attnc.passes.refusals import refuse
from attnc.passes.roles import Roles
from attnc.passes.simplify import make, simplify_node, topdown


@dataclass
class Stored:
    """Arrays that stand for an expression, what each is, and the expression made of their reads."""

    targets: tuple[Target, ...]
    value: Expr


@dataclass
class RowValues:
    """Replaces row values by reads, and collects what must be saved, passed and prepared.

    forward     reductions of the forward, None where nothing is saved
    outputs     outputs of the forward, by the digest of their formula: arrays to read
    later       names of cotangents: what depends on one is not saved
    summing     whether a loop over the keys may sum what pairs compute again (`_summed`)
    keeping     what saved values are: outputs of another schedule, or workspaces of this one
    """

    roles: Roles
    forward: Reductions | None
    outputs: dict[bytes, Array]
    later: frozenset[str]
    names: Names
    summing: bool = True
    keeping: Role = "output"
    reads: dict[str, Array] = field(default_factory=dict)
    saved: dict[bytes, Stored] = field(default_factory=dict)
    passed: dict[bytes, Stored] = field(default_factory=dict)
    levels: dict[str, int] = field(default_factory=dict)
    summed: dict[bytes, tuple[Array, Expr]] = field(default_factory=dict)
    prepared: dict[bytes, tuple[Array, Expr]] = field(default_factory=dict)
    exponents: set[str] = field(default_factory=set)
    passing: Reductions | None = None
    named: dict[bytes, Expr] = field(default_factory=dict)  # canonical forms: often asked again

    # ----------------------------------------------------------------------------- finding

    def exchange(self, expr: Expr, pair: bool = True) -> Expr:
        """The expression with row values as reads. `pair`: it is evaluated for each pair, so that
        sums over widths of a row are prepared too."""
        whole = self._canonical(expr)
        if not pair:
            return self._columns(self._folded(whole))
        found = self._prepared(self._columns(self._folded(topdown(whole, self._summed))))
        self._check_compared(found)
        return found

    def _check_compared(self, expr: Expr) -> None:
        """Refuses to ask, in a sum of a pair over outer axes, which key has another row's maximum:
        scores in such a sum are rounded otherwise than those that the row's own loop compared."""
        every = (*self.saved.values(), *self.passed.values())
        kept = {target.array.name for one in every for target in one.targets} | set(self.reads)
        for node in postorder(expr):
            outer = {i for i in node.bound if self.roles.of(i.axis) == "grid"}
            tests = (n for n in postorder(*node.args) if n.op in ("eq", "ne")) if outer else ()
            for test in tests:
                if not test.free & outer or any(side.op == "number" for side in test.args):
                    continue
                if any(n.op == "read" and n.array.name in kept for n in postorder(*test.args)):
                    raise refuse("map_stage: the keys that have a row's maximum, summed over rows")

    def _columns(self, expr: Expr) -> Expr:
        """Values of keys as reads of what loops that hold keys finish before."""
        return expr if self.passing is None else with_columns(expr, self.passing)

    def _canonical(self, expr: Expr) -> Expr:
        found = self.named.get(expr.digest)
        if found is None:
            found = self.named[expr.digest] = canonical(expr)
        return found

    def _folded(self, expr: Expr) -> Expr:
        """Row values with folds over keys."""
        return topdown(expr, self._row_value)

    def _row_value(self, node: Expr) -> Expr | None:
        if not self.roles.folds_keys(node):
            return node
        if not self.roles.is_row(node) or node.kind == "int":
            return None
        moves = self._alien(node)
        if moves:  # of a row, or a head, within a fold over these
            own = set(moves.values())
            if node.free & own or len(own) < len(moves):
                return None
            found = self._row_value(substitute(node, {o: position(n) for o, n in moves.items()}))
            back = {new: position(old) for old, new in moves.items()}
            return None if found is None else substitute(found, back)
        if self.forward is not None and not self.is_later(node):
            return self._saved(node)
        if node.op in ("mul", "div", "neg") and node.kind == "real":
            return self._product(node)
        if self.forward is not None and not self._walks(node):
            return None  # parts of it may be saved
        return self._passed(node)

    def _alien(self, node: Expr) -> dict[Index, Index]:
        """The indices of rows and outer axes that a fold around the node binds, by those of the
        kernels, which arrays are read at."""
        own = {index.axis: index for index in (*self.roles.frame.grid, self.roles.frame.held)}
        return {i: own[i.axis] for i in node.free if i.axis in own and i != own[i.axis]}

    def _walks(self, node: Expr) -> bool:
        """Whether a fold over keys in the node depends on cotangents (or nothing is saved)."""
        return any(
            self.roles.folds_keys(below) and below.op == "fold" and self.is_later(below)
            for below in postorder(node)
            if below.op == "fold"
            and any(self.roles.of(index.axis) == "key" for index in below.bound)
        )

    def is_later(self, node: Expr) -> bool:
        """Whether the expression is not known when the forward runs."""
        if self.forward is None:
            return True
        return any(n.op == "read" and n.array.name in self.later for n in postorder(node))

    def _product(self, node: Expr) -> Expr:
        """Factors that are saved together, times the others. What is divided by is read as it is:
        where it is 0, of a row without keys, the quotient is formed for pairs alone."""
        factors = factors_of(node)
        known, rest = factors.split(
            lambda f: self.forward is not None and self.roles.folds_keys(f) and not self.is_later(f)
        )
        known, rest = replace(known, negative=False), replace(rest, negative=factors.negative)
        if not known.above and not known.below:
            if not self._walks(node) or any(map(self.roles.folds_keys, rest.below)):
                above, below = (tuple(map(self._folded, f)) for f in (rest.above, rest.below))
                return Factors(above, below, rest.negative).expr
            return self._passed(node)
        if not any(self.roles.folds_keys(f) for f in (*rest.above, *rest.below)):
            return (Factors((self._saved(known.expr),)) * rest).expr
        above, below = (tuple(map(self._folded, f)) for f in (rest.above, rest.below))
        return (Factors((self._saved(known.expr),)) * Factors(above, below, rest.negative)).expr

    # ------------------------------------------------------------------------------- saved

    def _saved(self, node: Expr) -> Expr:
        """A read of what the forward keeps. Of a product of scalars each factor is kept, so that
        few are; where there is a width, the product."""
        assert self.forward is not None
        output = self._output(node)
        if output is not None:
            return output
        wide = self.roles.widths((node,))
        if len(wide) > 1:
            raise refuse("linear_state: a row value over two widths")
        if node.op in ("mul", "div", "neg") and node.kind == "real":
            factors = factors_of(node)
            known, rest = factors.split(self.roles.folds_keys)
            known, rest = replace(known, negative=False), replace(rest, negative=factors.negative)
            if wide and (rest.above or rest.below or rest.negative):
                return (Factors((self._saved(known.expr),)) * rest).expr
            if not wide:
                above, below = (tuple(map(self._saved, f)) for f in (known.above, known.below))
                return (Factors(above, below) * rest).expr
        if node.op == "where" and not wide:
            return simplify_node(node.with_args(tuple(map(self._folded, node.args))))
        if node.op in ("not", "and", "or"):
            return simplify_node(node.with_args(tuple(map(self._folded, node.args))))
        if node.op in ("eq", "ne") and node.args[0].kind == "real":
            return self._test(node)
        return self._keep(node, self.saved, self.forward, "saved")

    def _test(self, node: Expr) -> Expr:
        """A comparison with what is read of its sides. What is 0 says the mantissa alone: the power
        beside it may be beyond all numbers of the call."""
        found = simplify_node(node.with_args(tuple(map(self._folded, node.args))))
        return scaled(found, aligning=False).collapsed()

    def _output(self, node: Expr) -> Expr | None:
        """A read of the output that the node equals as a formula of the forward's reductions."""
        assert self.forward is not None
        if node.kind != "real":
            return None
        formula = self.formula(node)
        array = self.outputs.get(formula.digest)
        if array is None:
            return None
        self.forward.compared(formula)
        self.reads[array.name] = array
        given = Array(array.name, array.indices, array.kind, "input", array.span)
        places = {self._plain(w).axis: w for w in self.roles.widths((node,))}
        at = [position(places.get(index.axis, index)) for index in array.indices]
        return read(given, at)

    def formula(self, node: Expr) -> Expr:
        """The node in terms of the forward's reductions, its width named as in outputs."""
        assert self.forward is not None
        moves = {w: position(self._plain(w)) for w in self.roles.widths((node,))}
        return self.forward.finish(substitute(node, moves))

    @staticmethod
    def _plain(width: Index) -> Index:
        return Index(width.axis.name, width.axis, 0)

    # ------------------------------------------------------------------------------ passed

    def _passed(self, node: Expr) -> Expr:
        """A read of what a loop over keys finishes before the others run."""
        assert self.passing is not None
        counted = node.op in ("eq", "ne") and node.args[0].kind == "int"
        truth = node.op in ("not", "and", "or", "eq", "ne", "where") and node.kind == "bool"
        if truth and not counted:
            if node.op in ("eq", "ne"):
                return self._test(node)
            return simplify_node(node.with_args(tuple(map(self._folded, node.args))))
        inside = topdown(node, self._inner)
        return self._keep(inside, self.passed, self.passing, "finished")

    def _inner(self, node: Expr) -> Expr | None:
        """Bodies of folds over keys with their own row values as reads."""
        if not self.roles.folds_keys(node):
            return node
        if self.forward is not None and self.roles.is_row(node) and not self.is_later(node):
            return self._row_value(node)
        if node.op == "fold" and any(self.roles.of(i.axis) == "key" for i in node.bound):
            return node.with_args(tuple(self.exchange(arg) for arg in node.args))
        return None

    # ------------------------------------------------------------------------------ keeping

    def _keep(
        self, node: Expr, known: dict[bytes, Stored], reductions: Reductions, word: str
    ) -> Expr:
        """The arrays for a row value, and the expression of their reads."""
        wide = self.roles.widths((node,))
        width = self._plain(wide[0]) if wide else None
        named = self._canonical(substitute(node, {wide[0]: position(width)}) if width else node)
        if named.digest not in known:
            known[named.digest] = self._made(named, width, reductions, word)
        value = known[named.digest].value
        return substitute(value, {width: position(wide[0])}) if width else value

    def _made(self, node: Expr, width: Index | None, reductions: Reductions, word: str) -> Stored:
        over = (*self.roles.frame.grid, self.roles.frame.held, *((width,) if width else ()))
        if not node.free <= frozenset(over):
            raise refuse("map_stage: a derivative that meets two rows or two keys")
        truth = node.kind == "bool"
        formula = reductions.finish(make("where", node, ONE, ZERO) if truth else node)
        reductions.compared(formula)
        apart = width is None and bool(scaled(formula, reductions.symbolic).exponent)
        level = self._level(node)

        def target(part: str, base: str) -> Target:
            role: Role = self.keeping if word == "saved" else "workspace"
            array = Array(self.names.fresh(base), over, "real", role)
            self.levels[array.name] = level
            return Target(array, width, formula, part)  # type: ignore[arg-type]

        if not apart:
            whole = target("whole", f"{word}_row" if width is None else f"{word}_rows")
            value = self._back(whole)
            return Stored((whole,), make("ne", value, number(0.0)) if truth else value)
        mantissa, exponent = target("mantissa", f"{word}_row"), target("exponent", f"{word}_power")
        self.exponents.add(exponent.array.name)
        self.names.exponents[exponent.array.name] = nesting(node, self.names)
        value = make("mul", self._back(mantissa), make("exp2", self._back(exponent)))
        return Stored((mantissa, exponent), value)

    @staticmethod
    def _back(target: Target) -> Expr:
        array = target.array
        role: Role = "input" if array.role == "output" else "workspace"
        given = Array(array.name, array.indices, array.kind, role)
        return read(given, map(position, array.indices))

    def _level(self, node: Expr) -> int:
        """How many loops of passed values must run before, those that values of keys read too."""
        names = [n.array.name for n in postorder(node) if n.op == "read"]
        passed = {t.array.name for s in self.passed.values() for t in s.targets}
        columns = self.passing.columns.values() if self.passing is not None else ()
        of = {array.name: c for c in columns for array in (c.mantissa, c.exponent) if array}
        seen: set[str] = set()
        level = 0
        while names:
            name = names.pop()
            if name in seen:
                continue
            seen.add(name)
            if name in passed:
                level = max(level, self.levels[name] + 1)
            elif name in of:
                names += of[name].reads()
        return level

    # ------------------------------------------------------------------------------- summed

    def _summed(self, node: Expr) -> Expr | None:
        """sum_e g_ie (sum_j w_ij v_je) as a read of sum_j w_ij (sum_e g_ie v_je), which a loop over
        the keys makes of the terms that pairs compute again: what is left of their difference from
        it is then no smaller than its rounding."""
        if self.forward is None or not self.summing or not self.roles.folds_keys(node):
            return node
        held = self.roles.frame.held
        other = next((i for i in node.free if i.axis is held.axis and i != held), None)
        if other is not None and held not in node.free:  # of a row within a fold over the rows
            found = self._summed(substitute(node, {other: position(held)}))
            return None if found is None else substitute(found, {held: position(other)})
        if not self._is_width_sum(node):
            several = sum(map(self.roles.folds_keys, node.args)) > 1
            return node if several and self.roles.is_row(node) else None  # kept as a whole
        parts = [self._apart(part) for part in self._by_source(node)]
        if any(keyed is None for _, keyed in parts):
            return None
        whole = [keyed for rest, keyed in parts if keyed is not None and rest == Factors()]
        means = self._means(node, whole) if len(whole) == len(parts) else None
        if means is not None:
            return means
        sums = [(rest, self._kept_sum(keyed)) for rest, keyed in parts if keyed is not None]
        return total((rest * Factors((kept,))).expr for rest, kept in sums)

    def _means(self, node: Expr, sums: list[Expr]) -> Expr | None:
        """sum_e g_ie out_ie of an output that is a mean over the keys: of terms less that sum
        itself, as it is rounded."""
        given, own = factors_of(node.args[1]).split(self.is_later)
        mean = None if less(sums, ONE) is None else self._output(own.expr)
        if mean is None:
            return None
        whole = canonical(fold("sum", node.bound, (given * Factors((mean,))).expr))
        near = self._prepared_row(whole, "near")
        return total((near, *map(self._kept_sum, less(sums, near) or ())))

    def _kept_sum(self, keyed: Expr) -> Expr:
        """A read of a sum over keys that a loop makes for it."""
        rows = (*self.roles.frame.grid, self.roles.frame.held)
        if keyed.digest not in self.summed:
            array = Array(self.names.fresh("row_sum"), rows, "real", "workspace")
            inside = keyed.with_args(tuple(self.exchange(arg) for arg in keyed.args))
            self.summed[keyed.digest] = (array, inside)
            self.later |= {array.name}
        array, _ = self.summed[keyed.digest]
        return read(array, map(position, rows))

    def _by_source(self, node: Expr) -> list[Expr]:
        """sum_e g_e (a_e + b_e), a and b sums over keys of two sources, as a sum for each."""
        factors = factors_of(node.args[1])
        for place, factor in enumerate(factors.above):
            parts = addends_of(factor)
            if len(parts) < 2 or not all(self.roles.folds_keys(part) for part, _ in parts):
                continue
            found = []
            for part, minus in parts:
                above = (*factors.above[:place], part, *factors.above[place + 1 :])
                body = Factors(above, factors.below, factors.negative != minus).expr
                found.append(canonical(fold("sum", node.bound, body, node.args[0])))
            return found
        return [node]

    def _is_width_sum(self, node: Expr) -> bool:
        """Whether it is a sum over widths, of cotangents and row values."""
        return (
            node.op == "fold"
            and node.monoid == "sum"
            and node.kind == "real"
            and node.args[0] == TRUE
            and all(self.roles.of(index.axis) == "width" for index in node.bound)
            and node.free <= frozenset((*self.roles.frame.grid, self.roles.frame.held))
            and self.is_later(node)
        )

    def _apart(self, node: Expr) -> tuple[Factors, Expr | None]:
        """rest and a sum over keys of sums over widths whose product the node is; or None."""
        bound = frozenset(node.bound)

        def along(factor: Expr) -> bool:
            return bool(factor.free & bound)

        wide, rest = factors_of(node.args[1]).split(along)
        keyed = [f for f in wide.above if f.op == "fold" and self.roles.folds_keys(f)]
        others = tuple(f for f in wide.above if f not in keyed)
        if len(keyed) != 1 or keyed[0].monoid != "sum" or wide.below or self.is_later(keyed[0]):
            return rest, None
        if any(self.roles.folds_keys(f) for f in others) or along(keyed[0].args[0]):
            return rest, None
        own, weight = factors_of(keyed[0].args[1]).split(along)
        if own.below:
            return rest, None
        product = fold("sum", node.bound, (Factors(others) * own).expr)
        body = (weight * Factors((product,))).expr
        whole = canonical(fold("sum", keyed[0].bound, body, keyed[0].args[0]))
        return replace(rest, negative=rest.negative != wide.negative), whole

    # ----------------------------------------------------------------------------- prepared

    def _prepared(self, expr: Expr) -> Expr:
        """Sums over widths of a row, from a workspace."""
        return topdown(expr, self._row_sum)

    def _row_sum(self, node: Expr) -> Expr | None:
        if not self.roles.folded(node):
            return node
        rows = (*self.roles.frame.grid, self.roles.frame.held)
        if node.kind != "real" or not node.free <= frozenset(rows):
            return None
        if node.op in ("mul", "div", "neg", "where", "exp", "exp2"):
            return None
        if self.roles.frame.held not in node.free:
            return None
        if node.op != "fold" and any(n.op in ("exp", "exp2") for n in postorder(node)):
            return None  # a power is formed beside the pair's own
        return self._prepared_row(node, "row_sum")

    def _prepared_row(self, node: Expr, word: str) -> Expr:
        """A read of a row value that a map makes."""
        rows = (*self.roles.frame.grid, self.roles.frame.held)
        if node.digest not in self.prepared:
            array = Array(self.names.fresh(word), rows, "real", "workspace")
            self.prepared[node.digest] = (array, node)
        array, _ = self.prepared[node.digest]
        return read(array, map(position, rows))
