"""Prints traced terms as a text of the language, as a person would write it.

What the mods gave a name and use twice becomes an equation of that name; captured numbers are
params with their value as default, captured tensors inputs. A score that is -inf under a condition
on positions is a mask.
"""

from __future__ import annotations

import math
import operator
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

from attnc.flex.failures import TraceError
from attnc.flex.naming import Axes, Names
from attnc.flex.terms import Dim, Table, Term, is_number, postorder
from attnc.flex.trace import Tracer

OR, AND, NOT, COMPARE, RANGE, SUM, TERM, SIGN, POWER, PRIMARY = range(10)
INFIX = {
    "or": ("or", OR), "and": ("and", AND), "eq": ("==", COMPARE), "ne": ("!=", COMPARE),
    "lt": ("<", COMPARE), "le": ("<=", COMPARE), "gt": (">", COMPARE), "ge": (">=", COMPARE),
    "add": ("+", SUM), "sub": ("-", SUM), "mul": ("*", TERM), "div": ("/", TERM),
    "floordiv": ("//", TERM), "mod": ("%", TERM),
}  # fmt: skip
RISING = {"lt": ("<", False), "le": ("<=", False), "gt": ("<", True), "ge": ("<=", True)}
FOLDED: dict[str, Callable[..., int]] = {
    "add": operator.add, "sub": operator.sub, "mul": operator.mul
}  # fmt: skip
LEAVES = ("number", "index", "param", "score", "dim")
PRODUCT = "dot(q[i], k[j]) * scale"
WIDTH = 92  # columns of a clause before it is cut
Printed = tuple[str, int]


@dataclass(frozen=True)
class Text:
    """A printed operator: its text, and which captured tensor each input is."""

    text: str
    inputs: dict[str, Table]
    axes: dict[str, tuple[str, ...]]


def print_text(tracer: Tracer, name: str, score: Term | None, mask: Term | None, note: str) -> Text:
    """The text of an operator from what its mods compute."""
    return _Writer(tracer, score, mask).write(name, note)


class _Writer:
    def __init__(self, tracer: Tracer, score: Term | None, mask: Term | None) -> None:
        self.tracer = tracer
        terms = tracer.terms
        if score is not None:
            score = terms.counted(score)
            score, hidden = self._without_hidden(score)
            if hidden is not None:
                mask = hidden if mask is None else terms.both(mask, hidden)
        if mask is not None:
            mask = terms.truth(mask)
            mask = None if mask.op == "number" and mask.value is True else mask
        self.score, self.mask = score, mask
        self.roots = [root for root in (mask, score) if root is not None]
        self.names = Names()
        self.params = self._named_params()
        self.inputs: dict[Table, str] = {}
        self.axes = Axes(self.roots, tracer.same, self.names)
        for table in self.axes.tables:
            self.inputs[table] = self.names.fresh(table.name, "table")
        self.equations: dict[Term, str] = {}
        every = {node for node in postorder(*self.roots) if node in tracer.names}
        self.shared = Counter(tracer.names[node] for node in every)
        self._choose()

    # --- what becomes what --------------------------------------------------------------------

    def _without_hidden(self, score: Term) -> tuple[Term, Term | None]:
        """`where(c, s, -inf)` as s, and c as a mask."""
        terms = self.tracer.terms
        hidden: Term | None = None
        while score.op == "where" and "score" not in score.args[0].leaves:
            condition, yes, no = score.args
            if is_number(no, -math.inf):
                score = yes
            elif is_number(yes, -math.inf):
                condition, score = terms.negation(condition), no
            else:
                break
            hidden = condition if hidden is None else terms.both(hidden, condition)
        return score, hidden

    def _named_params(self) -> dict[str, str]:
        found = [str(n.value) for n in postorder(*self.roots) if n.op == "param"]
        book = self.tracer.book
        order = [name for name in book.values if name in found and name not in book.fixed]
        return {name: self.names.fresh(name, "value") for name in order}

    def _choose(self) -> None:
        """What is an equation: what has a name and is used twice, what is long and used twice."""
        uses: Counter[Term] = Counter(self.roots)
        for node in postorder(*self.roots):
            uses.update(node.args)
        for node in postorder(*self.roots):
            if node.free or node.op == "number":
                continue
            if node.op == "score" and uses[node] > 1:
                self.equations[node] = self.names.fresh("logit")
                continue
            wanted = self.tracer.names.get(node)
            least = 3 if wanted else 5
            if node.op in LEAVES or node.size < least or uses[node] < 2 or node in self.roots:
                continue
            self._equation(node)
        todo = [*self.roots, *self.equations]
        while todo:
            todo += self._shorten(todo.pop())

    def _shorten(self, root: Term) -> list[Term]:
        """Takes named parts out of a line that is too long to read; which they are."""
        parts = sorted(
            (n for n in postorder(root) if n is not root and n in self.tracer.names and n.size > 4),
            key=lambda node: -node.size,
        )
        taken: list[Term] = []
        for node in parts:
            if self._fits(root):
                break
            shown = self._shown(root)
            if node in shown and not node.free and node.op not in LEAVES:
                self._equation(node)
                taken.append(node)
        return taken

    def _fits(self, root: Term) -> bool:
        """Whether a line can be read: a sum may stand a term a line."""
        if root.op == "add" and root in self.roots:
            return all(len(line) <= WIDTH for line in self._clause("score:", root).splitlines())
        return len(self.print(root, within=True)[0]) <= WIDTH

    def _shown(self, root: Term) -> set[Term]:
        """The nodes that are printed where a term is: those under no other equation."""
        found: set[Term] = set()
        stack = list(root.args)
        while stack:
            node = stack.pop()
            if node not in self.equations and node not in found:
                found.add(node)
                stack += node.args
        return found

    def _equation(self, node: Term) -> None:
        wanted = self.tracer.names.get(node)
        if wanted is None:
            wanted = {"bool": "near", "int": "at", "real": "term"}[node.kind]
        elif wanted in self.names.used or self.shared[wanted] > 1:
            side = {frozenset("i"): "_i", frozenset("j"): "_j"}.get(self._indices(node), "")
            wanted = f"{wanted}{side}"
        self.equations[node] = self.names.fresh(wanted, "here")

    def _indices(self, node: Term) -> frozenset[str]:
        if "score" in node.leaves:
            return frozenset("ij")
        return node.leaves & {"i", "j"}

    # --- the text -----------------------------------------------------------------------------

    def write(self, name: str, note: str) -> Text:
        lines = [f"# {note}", f"attention {self.names.fresh(name, 'mod')}(q, k, v):"]
        lines += self._inputs() + self._params()
        for node, given in sorted(self.equations.items(), key=lambda pair: pair[0].size):
            subscript = ", ".join(sorted(self._indices(node)))
            left = f"{given}[{subscript}]" if subscript else given
            lines.append(self._clause(f"{left} =", node, within=True))
        if self.mask is not None:
            lines.append(self._clause("mask:", self.mask))
        lines.append(
            f"    score: {PRODUCT}" if self.score is None else self._clause("score:", self.score)
        )
        lines.append("    normalize: softmax(j: score)")
        inputs = {given: table for table, given in self.inputs.items()}
        axes = {given: self.axes.dims(table) for given, table in inputs.items()}
        return Text("\n".join(lines) + "\n", inputs, axes)

    def _inputs(self) -> list[str]:
        parts = []
        for table, name in self.inputs.items():
            dims = self.axes.dims(table)
            parts.append(f"{name}: {table.kind}{'[' + ', '.join(dims) + ']' if dims else ''}")
        return _declared("input", parts)

    def _params(self) -> list[str]:
        values = self.tracer.book.values
        parts = [
            f"{name}: {'int' if isinstance(values[key], int) else 'real'} = {_number(values[key])}"
            for key, name in self.params.items()
        ]
        return _declared("param", parts)

    def _clause(self, head: str, node: Term, within: bool = False) -> str:
        text = self.print(node, within=within)[0]
        line = f"    {head} {text}"
        if len(line) <= WIDTH + 6 or node.op not in ("and", "or", "add"):
            return line
        sign = INFIX[node.op][0]
        parts = self._operands(node)
        indent = " " * (len(head) + 6)
        return f"    {head} (" + f"\n{indent}{sign} ".join(parts) + ")"

    def _operands(self, node: Term) -> list[str]:
        """The operands of a long `and`, `or` or sum, a line each."""
        if node.op == "and":
            return [_bracketed(part, NOT) for part in self._conjuncts(node)]
        strength = INFIX[node.op][1]
        if node.op == "or":
            return [_bracketed(self.print(arg), strength + 1) for arg in self._flat(node)]
        left, right = node.args
        before = self._operands(left) if left.op == "add" and left not in self.equations else None
        last = _bracketed(self.print(right), strength + 1)
        return [*(before or [_bracketed(self.print(left), strength)]), last]

    # --- expressions ----------------------------------------------------------------------------

    def print(self, root: Term, within: bool = False) -> Printed:
        """A term's text and how strongly it binds; `within`: the root is an equation's own."""
        if root in self.equations and not within:
            return self.equations[root], PRIMARY
        if root.op == "and":
            parts = self._conjuncts(root)
            if len(parts) == 1:
                return parts[0]
            return " and ".join(_bracketed(part, NOT) for part in parts), AND
        if root.op == "or":
            return " or ".join(_bracketed(self.print(arg), AND) for arg in self._flat(root)), OR
        constant = self._constant(root) if root.op in FOLDED else None
        if constant is not None:
            text = _number(constant)
            return text, SIGN if text.startswith("-") else PRIMARY
        if root.op in INFIX:
            return self._infix(root)
        if root.op == "not":
            return f"not {_bracketed(self.print(root.args[0]), NOT)}", NOT
        if root.op == "neg":
            return f"-{_bracketed(self.print(root.args[0]), SIGN)}", SIGN
        if root.op == "pow":
            base, exponent = (self.print(arg) for arg in root.args)
            return f"{_bracketed(base, PRIMARY)} ** {_bracketed(exponent, SIGN)}", POWER
        if root.op in LEAVES:
            return self._leaf(root)
        if root.op == "read":
            return self._read(root), PRIMARY
        if root.op == "fold":
            return self._fold(root), PRIMARY
        name = root.name if root.op == "call" else root.op
        inside = ", ".join(self.print(arg)[0] for arg in root.args)
        return (f"{name}({inside})" if root.args else name), PRIMARY

    def _constant(self, node: Term) -> int | float | None:
        """The value of arithmetic on constants, some of them captured numbers that are fixed."""
        if isinstance(node.value, (int, float)) and not isinstance(node.value, bool):
            return node.value
        book = self.tracer.book
        if node.op == "param" and node.value in book.fixed:
            return book.values[str(node.value)]
        if node.op not in FOLDED:
            return None
        values = [self._constant(arg) for arg in node.args]
        if any(not isinstance(value, int) for value in values):
            return None
        return FOLDED[node.op](*values)

    def _infix(self, node: Term) -> Printed:
        sign, strength = INFIX[node.op]
        left, right = (self.print(arg) for arg in node.args)
        if strength == COMPARE:
            return f"{_bracketed(left, RANGE)} {sign} {_bracketed(right, RANGE)}", COMPARE
        return f"{_bracketed(left, strength)} {sign} {_bracketed(right, strength + 1)}", strength

    def _leaf(self, node: Term) -> Printed:
        if node.op == "number":
            assert isinstance(node.value, (bool, int, float))
            text = _number(node.value)
            return text, SIGN if text.startswith("-") else PRIMARY
        if node.op == "score":
            return PRODUCT, TERM
        if node.op == "param" and node.value not in self.tracer.book.fixed:
            return self.params[str(node.value)], PRIMARY
        if node.op == "param":
            text = _number(self.tracer.book.values[str(node.value)])
            return text, SIGN if text.startswith("-") else PRIMARY
        if node.op == "dim":
            assert isinstance(node.value, Dim)
            return self.axes.binder(node.value)[0], PRIMARY
        return str(node.value), PRIMARY

    def _read(self, node: Term, last: bool = True) -> str:
        table = node.value
        assert isinstance(table, Table)
        outer = ("b", "h")
        positions = [
            self.print(arg)[0]
            for arg, axis in zip(node.args, self.axes.dims(table), strict=True)
            if axis not in outer
        ]
        kept = positions if last else positions[:-1]
        return f"{self.inputs[table]}[{', '.join(kept)}]" if kept else self.inputs[table]

    def _fold(self, node: Term) -> str:
        assert isinstance(node.value, Dim)
        name, binder = self.axes.binder(node.value)
        body = node.args[0]
        product = node.name == "sum" and body.op == "mul" and binder == name
        if product and all(self._ends_in(factor, node.value) for factor in body.args):
            one, two = (self._read(factor, last=False) for factor in body.args)
            return f"dot({one}, {two})"
        return f"{node.name}({binder}: {self.print(body)[0]})"

    def _ends_in(self, factor: Term, dim: Dim) -> bool:
        """Whether a factor is a read whose last position alone is the fold's."""
        if factor.op != "read":
            return False
        *others, last = factor.args
        return last.value is dim and not any(dim in other.free for other in others)

    def _flat(self, root: Term) -> list[Term]:
        """The operands of nested `and`s, or `or`s, that are no equations."""
        found: list[Term] = []
        stack = list(reversed(root.args))
        while stack:
            node = stack.pop()
            if node.op == root.op and node not in self.equations:
                stack += reversed(node.args)
            else:
                found.append(node)
        return list(dict.fromkeys(found))

    def _conjuncts(self, node: Term) -> list[Printed]:
        """The parts of an `and`; two comparisons that meet are one chain."""
        parts: list[Printed] = []
        args = self._flat(node)
        while args:
            first = args.pop(0)
            chain = self._chain(first, args[0]) if args else None
            if chain is not None:
                args.pop(0)
            parts.append((chain, COMPARE) if chain is not None else self.print(first))
        return parts

    def _chain(self, first: Term, second: Term) -> str | None:
        """`a <= b < c` for `a <= b and b < c`, either way round."""
        if not all(term.op in RISING and term not in self.equations for term in (first, second)):
            return None
        low, high = _rising(first), _rising(second)
        if low[2] is not high[0]:
            low, high = high, low
        if low[2] is not high[0] or not low[2].leaves:
            return None
        texts = (_bracketed(self.print(t), RANGE) for t in (low[0], low[2], high[2]))
        left, middle, right = texts
        return f"{left} {low[1]} {middle} {high[1]} {right}"


def _rising(term: Term) -> tuple[Term, str, Term]:
    """A comparison with the smaller side first."""
    sign, turned = RISING[term.op]
    left, right = term.args
    return (right, sign, left) if turned else (left, sign, right)


def _bracketed(printed: Printed, wanted: int) -> str:
    text, strength = printed
    return f"({text})" if strength < wanted else text


def _number(value: bool | int | float) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float) and math.isinf(value):
        return "inf" if value > 0 else "-inf"
    if isinstance(value, float) and math.isnan(value):
        raise TraceError("nan", "the language has no such number")
    return repr(value)


def _declared(stage: str, parts: list[str]) -> list[str]:
    """The lines of a declaration, none too long."""
    lines: list[str] = []
    for part in parts:
        if lines and len(lines[-1]) + len(part) + 2 <= WIDTH:
            lines[-1] += f", {part}"
        else:
            lines.append(f"    {stage} {part}")
    return lines
