"""Pipeline -> Bands: which of its arrays a band of rows can make alone.

An array that has a query row and another length (statistics of groups, a choice among all keys)
takes memory of rows times that length. Where whoever reads it reads its own row alone, a band of
rows makes its part, uses it and forgets it: memory is the band's rows times the length. What
has no row is made once, before the bands; gradients run each band again (attnc/runtime/bands.py).

does      finds the arrays of the rows' own, and which of them grow
needs     the stages of a pipeline; rows whose first position the call may move
does not  choose a size: the call does, from its lengths
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from attnc.build import blocks
from attnc.expressions.index import Axis, Index
from attnc.expressions.tree import Array, Expr, postorder
from attnc.spec import Block, Definition, Repeat, Spec
from attnc.stages import Bands, Growing, KernelStage

GRADIENTS = 4  # of a row, at once: slices of a sweep's shares, and where they are summed


def bands_of(spec: Spec, kernels: Iterable[KernelStage]) -> Bands | None:
    """The bands of a pipeline; None where nothing grows, or where rows need one another."""
    rows = spec.root.rows
    states = any(block.states for block in blocks(spec.root))
    if not rows or states or rows[-1].axis.shifted != "offset" or rows[-1].axis.low is not None:
        return None
    return _Rows(spec, tuple(kernels)).bands()


class _Rows:
    """The arrays of a pipeline by name, and which of them a band can make.

    makers   by array what makes it: the stage, the loop or the equation
    fails    the arrays that no band can make: they have no row, or need other rows than their own
    """

    def __init__(self, spec: Spec, kernels: tuple[KernelStage, ...]) -> None:
        self.spec = spec
        self.axis = spec.root.rows[-1].axis
        self.makers: dict[str, KernelStage | Repeat | Definition] = {}
        self.arrays: dict[str, Array] = {}
        for block in blocks(spec.root):
            self._enter(block)
        for stage in kernels:
            self.makers |= {name: stage for name, _ in stage.provides}
        self.fails = {name for name in self.makers if not self._alone(name)}
        self.tokens = {axis.name for axis in spec.axes if axis.shifted} | self._walked()

    def _enter(self, block: Block) -> None:
        for one in _definitions(block):
            self.makers.setdefault(one.array.name, one)
            self.arrays.setdefault(one.array.name, one.array)
        for each in block.statements:
            if isinstance(each, Repeat):
                self.makers |= {line.array.name: each for line in each.statements}
                self.arrays |= {line.array.name: line.array for line in each.statements}

    def _walked(self) -> set[str]:
        every = [block for block in blocks(self.spec.root) if _has_clauses(block)]
        found = {index.axis.name for block in every for index in block.rows}
        found |= {key.axis.name for block in every for s in block.sources for key in s.keys}
        return found - {"b", "h"}

    def bands(self) -> Bands | None:
        root = self.spec.root
        needed = self._below(root.result.array.name)
        before = self._before(needed)
        own = frozenset(needed - before)
        if root.result.array.name not in own:
            return None
        growing = tuple(one for name in sorted(own) for one in self._growing(name))
        stages = {
            m.block: m for m in map(self.makers.get, sorted(own)) if isinstance(m, KernelStage)
        }
        growing += tuple(one for stage in stages.values() for one in self._in_gradients(stage))
        if not growing:
            return None
        emits = tuple(one.array for one in (*root.emits, *root.offered))
        apart = frozenset(one.name for one in emits if not self._goes_along(one.name, before))
        return Bands(self.axis, own, apart, growing)

    # ----------------------------------------------------------------------- what a band can make

    def _read(self, name: str) -> list[Array]:
        """What an array is made of."""
        maker = self.makers[name]
        if isinstance(maker, KernelStage):
            return [array for _, array in maker.arguments]
        return [array for expr in self._exprs(name) for array in _arrays(expr)]

    def _exprs(self, name: str) -> list[Expr]:
        maker = self.makers[name]
        if isinstance(maker, Definition):
            return [maker.expr]
        assert isinstance(maker, Repeat)
        return [one.expr for one in self._lines(maker)] + [maker.count]

    def _lines(self, loop: Repeat) -> list[Definition]:
        """The equations of a loop, with those of first values."""
        names = {line.array.name for line in loop.statements}
        every = (one for block in blocks(self.spec.root) for one in _definitions(block))
        return [*loop.statements, *(one for one in every if one.array.name in names)]

    def _below(self, name: str) -> set[str]:
        """The arrays that one is made of, itself among them; inputs are none."""
        found: set[str] = set()
        todo = [name]
        while todo:
            each = todo.pop()
            if each not in found and each in self.makers:
                found.add(each)
                todo += [array.name for array in self._read(each)]
        return found

    def _before(self, names: set[str]) -> set[str]:
        """Those that are made of all rows: what fails, and all that it is made of."""
        return {each for name in names & self.fails for each in self._below(name)}

    def _goes_along(self, name: str, before: set[str]) -> bool:
        """Whether any band makes an emit too: a part of it, or all where it knows nothing of rows;
        of what is made before anyway, and of what knows nothing of rows."""
        below = self._below(name)
        if not any(map(self._knows_rows, below)):
            return True
        mine = self._before(below)
        return name not in mine and not any(map(self._knows_rows, mine - before))

    def _knows_rows(self, name: str) -> bool:
        maker, row = self.makers[name], self.axis.name
        axes = [axis for array in (self.arrays[name], *self._read(name)) for axis in array.axes]
        if isinstance(maker, KernelStage):
            axes += [axis for _, axis in maker.lengths]
        elif any(_over(node, row) for node in postorder(*self._exprs(name))):
            return True
        return any(_of_rows(axis, row) for axis in axes)

    def _alone(self, name: str) -> bool:
        """Whether a row of an array is made of its own rows."""
        maker = self.makers[name]
        if isinstance(maker, KernelStage):
            return self._stage_alone(maker)
        if isinstance(maker, Definition):
            return _own_row(maker, self.axis.name)
        count = all(not _over(node, self.axis.name) for node in postorder(maker.count))
        lines = all(_own_row(one, self.axis.name) for one in self._lines(maker))
        return count and lines and maker.index.axis.name != self.axis.name

    def _stage_alone(self, stage: KernelStage) -> bool:
        """Whether a stage can be called for some rows: it takes their first position, measures
        nothing on them, and makes nothing of several."""
        spec, name = stage.stages.spec, self.axis.name
        rows = {index.axis.name: index.axis for index in spec.root.rows}
        keys = {key.axis.name for s in spec.root.sources for key in s.keys}
        if stage.carry is not None or stage.states or name not in rows or name in keys:
            return False
        shifted = [axis.name for axis in rows.values() if axis.shifted == "offset"]
        if shifted != [name] or any(_of_rows(axis, name) for _, axis in stage.lengths):
            return False
        made = {output for _, output in stage.provides}
        every = [one for block in blocks(spec.root) for one in _all_definitions(block)]
        return all(_own_row(one, name, one.array.name in made) for one in every)

    # ------------------------------------------------------------------------------- what grows

    def _growing(self, name: str) -> Iterator[Growing]:
        """What an array that a band makes has of rows and another length, itself or within."""
        maker, result = self.makers[name], self.spec.root.result.array
        if name != result.name and self._grows(self.arrays[name].axes):
            array = self.arrays[name]
            yield Growing(name, self._beside(array.axes), array.kind)
        if isinstance(maker, KernelStage):
            return
        known = {frozenset(self.arrays[name].axes)}
        for node in (node for expr in self._exprs(name) for node in postorder(expr)):
            axes = tuple(dict.fromkeys(index.axis for index in (*node.free, *node.bound)))
            kept = tuple(a for a in axes if a.name in ("b", "h") or self._long(a))
            kept = tuple(sorted(kept, key=lambda axis: axis.name))  # whatever hashes say
            if node.bound and self._grows(kept) and frozenset(kept) not in known:
                known.add(frozenset(kept))
                yield Growing(f"a value within {name}", self._beside(kept), "real")

    def _in_gradients(self, stage: KernelStage) -> Iterator[Growing]:
        """The gradients of what a stage is given, which its kernels make for each of its rows."""
        made = self.arrays[stage.provides[0][0]]
        rows = {index.axis.name for index in stage.stages.spec.root.rows}
        for _, array in stage.arguments:
            names = {axis.name for axis in array.axes}
            more = tuple(a for a in made.axes if a.name in rows - names and self._long(a))
            if self.axis.name in names and array.kind == "real" and more:
                shown = f"the gradient of {array.name} within {stage.block}"
                beside = (*self._beside(array.axes), *more)
                yield Growing(shown, beside, "real", True, GRADIENTS)

    def _grows(self, axes: Iterable[Axis]) -> bool:
        """Whether axes are rows and another length, which the result has not."""
        names = [axis.name for axis in axes]
        result = [axis.name for axis in self.spec.root.result.array.axes]
        return self.axis.name in names and any(
            self._long(axis) for axis in axes if axis.name not in result
        )

    def _beside(self, axes: Iterable[Axis]) -> tuple[Axis, ...]:
        return tuple(axis for axis in axes if axis.name != self.axis.name)

    def _long(self, axis: Axis) -> bool:
        """Whether an axis grows with the rows or keys of a call."""
        if axis.length is not None:
            lengths = (n.attr for n in postorder(axis.length) if isinstance(n.attr, Axis))
            return any(self._long(one) for one in lengths)
        if axis.parts:
            return any(map(self._long, axis.parts))
        return axis.name in self.tokens


def _has_clauses(block: Block) -> bool:
    every = (one for s in block.sources for one in (s.mask, s.score, s.weight))
    return any(one is not None for one in every)


def _definitions(block: Block) -> Iterator[Definition]:
    yield from (one for one in block.statements if isinstance(one, Definition))
    yield from (block.result, *block.emits, *block.offered)


def _all_definitions(block: Block) -> Iterator[Definition]:
    yield from _definitions(block)
    for each in block.statements:
        if isinstance(each, Repeat):
            yield from each.statements


def _arrays(expr: Expr) -> Iterator[Array]:
    return (node.array for node in postorder(expr) if node.op in ("read", "grad"))


def _of_rows(axis: Axis, name: str) -> bool:
    """Whether an axis is that of the rows, or is made of it."""
    ends = [end for end in (axis.low, axis.length) if end is not None]
    inner = [node.attr for node in postorder(*ends) if isinstance(node.attr, Axis)]
    inner += [*axis.parts, *([axis.of] if axis.of is not None else [])]
    return axis.name == name or any(_of_rows(one, name) for one in inner)


def _over(node: Expr, name: str) -> bool:
    """Whether a node knows all rows: goes over them, or asks how many there are."""
    axes = [index.axis for index in node.bound]
    axes += [node.attr] if isinstance(node.attr, Axis) else []
    return any(_of_rows(axis, name) for axis in axes)


def _own_row(definition: Definition, name: str, rows: bool = True) -> bool:
    """Whether an equation makes each row of rows alone. `rows`: and has rows at all."""
    own = [index for index in definition.array.indices if _of_rows(index.axis, name)]
    if len(own) > 1 or (rows and not own) or any(index.axis.name != name for index in own):
        return False
    nodes = list(postorder(definition.expr))
    return not any(_over(node, name) for node in nodes) and all(
        _reads_own(node, name, own[0] if own else None)
        for node in nodes
        if node.op in ("read", "grad")
    )


def _reads_own(node: Expr, name: str, row: Index | None) -> bool:
    """Whether an array with rows is read at the row."""
    axes = node.array.axes
    places = node.args[len(node.args) - len(axes) :]
    found = [(axis, at) for axis, at in zip(axes, places, strict=True) if _of_rows(axis, name)]
    if len(found) > 1:
        return False
    return all(axis.name == name and at.op == "index" and at.attr == row for axis, at in found)
