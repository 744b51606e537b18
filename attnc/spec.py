"""The Spec: an operator after `check`. Names are resolved, kinds, shapes and axes are known, defs
are expanded.

What stays symbolic is what the text named: every equation, score, mask and weight is an `Array`
with a `Definition`, and expressions read it by its Array. Vectors are scalar trees with one more
free index (see expressions/tree.py). The Spec is the meaning; the NumPy oracle and the eager form
are read straight off it.

Conventions
- Domains are explicit. A fold over the keys of a bound row carries the row's mask in its condition,
  and `weight` and `score` are only read where the mask holds, or through `where(mask, ..., 0 or
  -inf)`. A source with a score has a mask, `true` where none is written.
- A key whose score is -inf counts as masked, but no condition says so: whoever evaluates a read of
  a source's mask takes it as `mask and score > -inf`, except in what the score itself depends on.
- Outer axes (b, h, hk) are ordinary indices of every Array that depends on them, in the order b, h
  (or hk), others, then inner ones. A read on hk from a place where h is bound has the position
  `h // (len(h) // len(hk))` written out.
- Positions, not rows: an index of a shifted axis ranges over start .. start + length.
- Kinds meet by casts: operands of one operation are of one kind, `to_real` and `to_complex` stand
  where the text leaves them out. Statics whose value is known are numbers.
- Clause arrays are named after their keys (`j.mask`, `j.score`, `j.weight`; in a block `near` they
  are `near.j.mask` ...), locals of an expanded def after it (`sinkhorn.f`). The operator's result
  is `out`.
- Lines of `update` have the time row (the last of `Block.rows`) free besides the indices of the
  array that they assign; other rows are dimensions of states.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from attnc.errors import Diagnostic
from attnc.expressions.index import Axis, Index
from attnc.expressions.tree import TRUE, Array, Expr, Kind
from attnc.source import Source, Span


@dataclass(frozen=True, slots=True)
class Number:
    """A param (given at the call) or a static (fixed when the operator is compiled; `value` binds
    it)."""

    name: str
    kind: Kind
    static: bool
    default: Expr | None
    span: Span


@dataclass(frozen=True, slots=True)
class Input:
    """A tensor of the call. `positional`: named in the header's parentheses; `default` makes it
    optional."""

    array: Array
    positional: bool
    default: Expr | None
    span: Span

    @property
    def name(self) -> str:
        return self.array.name


@dataclass(frozen=True, slots=True)
class Definition:
    """`array[indices] = expr`: an equation, a clause's array, one line of an update.

    domain    where the equation is defined, if not everywhere: nobody may ask for other entries
    """

    array: Array
    expr: Expr
    span: Span | None = None
    domain: Expr = TRUE


@dataclass(frozen=True, slots=True)
class Repeat:
    """The statements once for each value of `index`; a right side sees old values."""

    index: Index
    count: Expr
    statements: tuple[Definition, ...]
    span: Span | None = None


@dataclass(frozen=True, slots=True)
class State:
    """What is carried from row to row; `initial` may be given and the final value asked for at the
    call."""

    array: Array
    initial: Expr
    span: Span | None = None


@dataclass(frozen=True, slots=True)
class KeySource:
    """One alternative of `over`: the indices of a key, and its clauses' arrays (all over outer
    axes, rows, keys)."""

    keys: tuple[Index, ...]
    mask: Array | None
    score: Array | None
    weight: Array | None


@dataclass(frozen=True, slots=True)
class Block:
    """One attention block: rows, keys, the equations of its body in text order (its mask, score and
    weight among
    them), states and their update, its result and its emits.

    rows          the row indices; with a state, the last is time and runs in order
    statements    Definition | Repeat | Block, in text order; a nested Block defines the array of
                  its name
    updates       the lines of `update` in text order, assigning states (by their Array) or locals
                  of the step
    result        the Definition of what the block is worth (read), over outer axes, rows, then
                  left-over axes
    emits         written emits, by name
    offered       the unwritten emits (lse, max, argmax, entropy, colsum, weight, score), made on
                  request only
    reads_old     read is written before update: result and emits see the states of the last row
    """

    name: str
    rows: tuple[Index, ...]
    sources: tuple[KeySource, ...]
    statements: tuple[Definition | Repeat | Block, ...]
    states: tuple[State, ...]
    updates: tuple[Definition, ...]
    result: Definition
    emits: tuple[Definition, ...]
    offered: tuple[Definition, ...]
    span: Span | None = None
    reads_old: bool = False


@dataclass(frozen=True, slots=True)
class Check:
    """What `check` could not prove and the call must test: `condition` (over lengths, starts and
    numbers) else `message`."""

    condition: Expr
    message: str
    span: Span


def repeated(block: Block) -> Iterator[str]:
    """The names of the arrays that the repeats of a block, and of those within it, assign: what
    they hold is no one equation."""
    for one in block.statements:
        if isinstance(one, Block):
            yield from repeated(one)
        elif isinstance(one, Repeat):
            yield from (line.array.name for line in one.statements)


@dataclass(frozen=True, slots=True)
class ReadCheck:
    """What the call must test point by point, since data decides it: `condition` must hold wherever
    all of `given` do, for all indices in them. `text` is the read as written.

    Both are over indices, numbers, lengths, starts and input tensors alone."""

    condition: Expr
    given: tuple[Expr, ...]
    text: str
    span: Span

    @property
    def key(self) -> tuple[bytes, ...]:
        """What makes two of them the same test."""
        return (self.condition.digest, *(one.digest for one in self.given))


@dataclass(frozen=True, slots=True)
class Spec:
    """A checked operator. `root` is the body; its result and emits are the operator's outputs."""

    name: str
    source: Source
    axes: tuple[Axis, ...]
    numbers: tuple[Number, ...]
    inputs: tuple[Input, ...]
    root: Block
    checks: tuple[Check, ...] = ()
    definitions: dict[str, Definition] = field(default_factory=dict, compare=False)
    warnings: tuple[Diagnostic, ...] = ()
    read_checks: tuple[ReadCheck, ...] = ()

    def __post_init__(self) -> None:
        again = set(repeated(self.root))
        own = {name: one for name, one in self.definitions.items() if name not in again}
        object.__setattr__(self, "definitions", own)

    def definition(self, array: Array) -> Definition | None:
        """The equation of an array: None for inputs, states, locals and arrays assigned in a
        repeat."""
        return self.definitions.get(array.name)
