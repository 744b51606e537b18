"""Graph -> kernels: the carried loop over keys, derived from the formulas of the outputs.

does      chooses what is held and walked; collects the reductions over keys (reductions), puts
          them under references (references), makes a stream kernel of each group, and a kernel
          before it for row values that another pass needs
needs     a simplified Graph
does not  know any normalizer, choose tiles, or look at masks (regions does)
"""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import count

from attnc.expressions.index import Index
from attnc.expressions.tree import Array, Expr, position, postorder, read, rewrite, value
from attnc.graph import Graph
from attnc.passes.constants import LN_2
from attnc.passes.contract import Preparations
from attnc.passes.exponents import Scaled, scaled
from attnc.passes.frame import Frame
from attnc.passes.hoist import Hoister, Names
from attnc.passes.loops import CarriedNames, LoopBuilder
from attnc.passes.reductions import SEEN, Reductions, refuse
from attnc.passes.references import REFERENCE, Group, group, is_reference
from attnc.passes.simplify import make, simplify_node
from attnc.schedule import Kernel, Let, MapKernel, Store, StreamKernel, Workspace


@dataclass(frozen=True)
class Target:
    """`array = expr`: an output or a workspace, as a formula of reductions."""

    array: Array
    width: Index | None
    expr: Expr


@dataclass
class Lowering:
    """What lowering a Graph collects."""

    frame: Frame
    reductions: Reductions
    preparations: Preparations
    kernels: list[Kernel] = field(default_factory=list)
    workspaces: list[Workspace] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def stream(graph: Graph) -> Lowering:
    """The kernels of a graph whose outputs are rows over folds of keys.

    Raises UnsupportedError for what needs another kind of loop."""
    lowering, targets = targets_of(graph)
    for level in range(
        1 + max((p.level for p in lowering.reductions.pending.values()), default=-1)
    ):
        stored = tuple(_row_values(lowering, level))
        _emit(lowering, f"{graph.name}_pass_{level + 1}", stored)
        names = " and ".join(target.array.name for target in stored)
        lowering.notes.append(f"Pass {level + 1} over the keys finishes {names} for the next.")
    _emit(lowering, graph.name, targets)
    return lowering


def targets_of(graph: Graph) -> tuple[Lowering, tuple[Target, ...]]:
    """The frame of a graph, and its outputs as formulas of reductions."""
    frame = frame_of(graph)
    taken = {node.array.name for node in postorder(*graph.roots) if node.op == "read"}
    taken.update(output.array.name for output in graph.outputs)
    taken.update(str(node.attr) for node in postorder(*graph.roots) if node.op == "param")
    lowering = Lowering(frame, Reductions(frame), Preparations(names=Names(taken | {REFERENCE})))
    targets = []
    for output in graph.outputs:
        expr = lowering.reductions.finish(rewrite(output.expr, _without_stop))
        rest = [i for i in output.array.indices if i not in frame.rows]
        if len(rest) > 1 or frame.held not in output.array.indices:
            raise refuse("out_colstats: an output that is not over rows")
        targets.append(Target(output.array, rest[0] if rest else None, expr))
    return lowering, tuple(targets)


def _without_stop(node: Expr) -> Expr:
    return node.args[0] if node.op == "stop" else simplify_node(node)


def frame_of(graph: Graph) -> Frame:
    """Rows are held, keys are walked."""
    if graph.iterations:
        raise refuse("column_norm: arrays that are repeated")
    if graph.recurrences:
        raise refuse("linear_state")
    if not graph.rows:
        raise refuse("pooling_stage: an operator without rows")
    if any(len(axes) != 1 for axes in graph.keys):
        raise refuse("multi_term_score: keys that are pairs")
    held = graph.rows[-1]
    indices = graph.outputs[0].array.indices
    names = {index.name for output in graph.outputs for index in output.array.indices}
    walked = []
    for (axis,) in graph.keys:
        name = axis.name
        while name in names:
            name += "_"
        names.add(name)
        walked.append(Index(name, axis, 0))
    return Frame(indices[: indices.index(held)], held, tuple(walked))


def _row_values(lowering: Lowering, level: int) -> list[Target]:
    """What the pass of this level stores for later ones."""
    found: list[Target] = []
    for stored in lowering.reductions.pending.values():
        if stored.level != level:
            continue
        found.append(Target(stored.mantissa, None, stored.expr))
        lowering.workspaces.append(Workspace(stored.mantissa, "accumulate"))
        if stored.exponent is not None:
            found.append(Target(stored.exponent, None, stored.expr))
            lowering.workspaces.append(Workspace(stored.exponent, "accumulate"))
    return found


def used_by(reductions: Reductions, targets: tuple[Target, ...]) -> list[str]:
    """The reductions that the targets use, in order of appearance."""
    names: dict[str, None] = {}
    for node in postorder(*(target.expr for target in targets)):
        if node.op == "value" and str(node.attr) in reductions.entries:
            names.setdefault(str(node.attr))
    return list(names)


def _emit(lowering: Lowering, name: str, targets: tuple[Target, ...]) -> None:
    """The kernels that compute the targets: one, or one for each reference and a map after them."""
    reductions = lowering.reductions
    entries = [reductions.entries[used] for used in used_by(reductions, targets)]
    if not entries:
        raise refuse("elementwise: an output without a fold over keys")
    groups = group(entries)
    if len(groups) == 1:
        carry = make_carry(lowering, groups[0], targets)
        finish = Finish(lowering, [carry])
        lets, stores = finish.lower(targets)
        lowering.kernels.append(kernel_of(lowering, name, carry, lets, stores))
        return
    carries = []
    for number, members in enumerate(groups, 1):
        carry = make_carry(lowering, members, targets if number == 1 else ())
        stores = spill(lowering, carry, f"{name}_{number}")
        lowering.kernels.append(kernel_of(lowering, f"{name}_{number}", carry, [], stores))
        carries.append(carry)
    lowering.notes.append(f"{len(groups)} exponents that differ: one loop over the keys for each.")
    lowering.kernels.extend(map_kernels(lowering, f"{name}_finish", carries, targets))


@dataclass
class Carry:
    """A group with the loops that compute it, and how finishes read it: by name inside its kernel,
    or from the arrays that it was spilled to."""

    group: Group
    names: CarriedNames
    builder: LoopBuilder
    arrays: dict[str, Array] = field(default_factory=dict)

    @property
    def has_reference(self) -> bool:
        return bool(self.group.exponents)


def make_carry(lowering: Lowering, members: Group, targets: tuple[Target, ...]) -> Carry:
    """The loops of a group. `targets` decide whether it must know if a row has met a key."""
    asks = any(
        node.op == "value" and node.attr == SEEN
        for node in postorder(*(target.expr for target in targets))
    )
    builder = LoopBuilder(lowering.frame, members, lowering.preparations, asks)
    builder.build()
    lowering.notes.extend(note for note in builder.notes if note not in lowering.notes)
    return Carry(members, builder.carried, builder)


def spill(lowering: Lowering, carry: Carry, prefix: str) -> tuple[Store, ...]:
    """Stores of every carried value (and the reference) to workspaces of the accumulation type."""
    stores = []
    over = (*lowering.frame.grid, lowering.frame.held)
    for carried in carry.names.carried:
        ends = (carried.width,) if carried.width else ()
        array = Array(f"{prefix}_{carried.name}", (*over, *ends), "real", "workspace")
        carry.arrays[carried.name] = array
        stores.append(Store(array, carried.width, value(carried.name, "real", (*over, *ends))))
    if carry.has_reference:
        array = Array(f"{prefix}_{REFERENCE}", over, "real", "workspace")
        carry.arrays[REFERENCE] = array
        stores.append(Store(array, None, value(REFERENCE, "real", over)))
    lowering.workspaces.extend(Workspace(store.array, "accumulate") for store in stores)
    return tuple(stores)


@dataclass
class Finish:
    """Formulas of reductions -> statements and stores after the loops."""

    lowering: Lowering
    carries: list[Carry]

    def lower(self, targets: tuple[Target, ...]) -> tuple[list[Let], tuple[Store, ...]]:
        """The finish Lets and the stores of the targets."""
        frame = self.lowering.frame
        over = (*frame.grid, frame.held)
        widths = [target.width for target in targets if target.width is not None]
        inner = Frame(over, widths[0] if widths else Index("none", frame.held.axis, -1), ())
        taken = set(self.lowering.preparations.names.taken)
        for carry in self.carries:
            taken |= carry.builder.names.taken
        hoister = Hoister(inner, Names(taken))
        stores = []
        for target in targets:
            expr = self._formula(target)
            exponents = [p.exponent for p in self.lowering.reductions.pending.values()]
            if target.width is None and target.array not in exponents and expr.op != "value":
                expr = hoister.let("grid", target.array.name + "_row", hoister.hoist(expr, "grid"))
            stores.append(Store(target.array, target.width, hoister.hoist(expr, "held")))
        return hoister.lets["grid"], tuple(stores)

    def _formula(self, target: Target) -> Expr:
        whole = scaled(target.expr, self._leaf)
        for stored in self.lowering.reductions.pending.values():
            if target.array is stored.exponent:
                return whole.exponent.expr()
            if target.array is stored.mantissa and stored.exponent is not None:
                return whole.mantissa
        return whole.collapsed()

    def _leaf(self, node: Expr) -> Scaled | None:
        if node.op != "value":
            return None
        if node.attr == SEEN:
            return Scaled(self._read_back(self.carries[0], self.carries[0].names.seen()))
        for carry in self.carries:
            entry = carry.group.members.get(str(node.attr))
            if entry is None:
                continue
            if is_reference(carry.group, entry):
                top = value(REFERENCE, "real", (*self.lowering.frame.rows,))
                return Scaled(make("mul", self._read_back(carry, top), _LN_2))
            over = sorted(node.free, key=lambda index: (index.name, index.number))
            result = carry.group.result(entry.name, carry.names.of[entry.name], over)
            terms = tuple((self._read_back(carry, t), c) for t, c in result.exponent.terms)
            exponent = type(result.exponent)(terms, result.exponent.constant)
            return Scaled(self._read_back(carry, result.mantissa), exponent)
        return None

    @staticmethod
    def _read_back(carry: Carry, expr: Expr) -> Expr:
        """The expression with carried values read from where they were spilled, if they were."""
        if not carry.arrays:
            return expr

        def change(node: Expr) -> Expr:
            array = carry.arrays.get(str(node.attr)) if node.op == "value" else None
            return read(array, map(position, array.indices)) if array is not None else node

        return rewrite(expr, change)


def kernel_of(
    lowering: Lowering, name: str, carry: Carry, finish: list[Let], stores: tuple[Store, ...]
) -> StreamKernel:
    """The stream kernel of a carry."""
    builder = carry.builder
    return StreamKernel(
        name,
        lowering.frame.grid,
        lowering.frame.held,
        tuple(builder.hoister.lets["grid"]),
        tuple(builder.hoister.lets["held"]),
        tuple(carry.names.carried),
        tuple(builder.loops),
        tuple(finish),
        stores,
    )


def map_kernels(
    lowering: Lowering, name: str, carries: list[Carry], targets: tuple[Target, ...]
) -> list[Kernel]:
    """Finishes from spilled values, one map for each target."""
    over = (*lowering.frame.grid, lowering.frame.held)
    kernels: list[Kernel] = []
    numbers = count(1)
    for target in targets:
        lets, stores = Finish(lowering, carries).lower((target,))
        suffix = "" if len(targets) == 1 else f"_{next(numbers)}"
        kernels.append(MapKernel(f"{name}{suffix}", over, tuple(lets), stores))
    return kernels


_LN_2 = simplify_node(Expr("number", (), LN_2, "real"))
