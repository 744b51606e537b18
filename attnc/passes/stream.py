"""Graph -> kernels: the carried loop over keys, derived from the formulas of the outputs.

does      chooses what is held and walked; collects the reductions over keys (reductions), puts
          them under references (references), makes a stream kernel of each group, and a kernel
          before it for row values that another pass needs
needs     a simplified Graph
does not  know any normalizer, choose tiles, or look at masks (regions does)
"""

from __future__ import annotations

from attnc.expressions.index import Index
from attnc.expressions.tree import Expr, postorder, rewrite
from attnc.graph import Graph
from attnc.passes.columns import emit_columns
from attnc.passes.contract import Preparations
from attnc.passes.finish import Carry, Finish, Lowering, Target, finish_kernels, spill
from attnc.passes.frame import Frame
from attnc.passes.hoist import Names, names_in
from attnc.passes.iterate import iterate, renamed
from attnc.passes.loops import Added, LoopBuilder
from attnc.passes.reductions import Reductions
from attnc.passes.references import REFERENCE, Group, group, witness
from attnc.passes.refusals import refuse
from attnc.passes.simplify import simplify_node
from attnc.passes.solve import emit_solve
from attnc.passes.sources import SEEN
from attnc.schedule import Workspace
from attnc.schedule.statements import Let, Store
from attnc.schedule.streams import StreamKernel

NO_EXPONENT = "No weight has an exponent that needs a running maximum."


def stream(graph: Graph) -> Lowering:
    """The kernels of a graph whose outputs are rows over folds of keys.

    Raises UnsupportedError for what needs another kind of loop."""
    lowering, targets = targets_of(graph)
    emit_passes(lowering, graph.name, targets)
    return lowering


def emit_passes(lowering: Lowering, name: str, targets: tuple[Target, ...]) -> None:
    """The kernels that compute the targets, those of row values that they need first."""
    emit_columns(lowering, name, emit_passes)
    emit_solves(lowering, name)
    for level in range(
        1 + max((p.level for p in lowering.reductions.pending.values()), default=-1)
    ):
        stored = tuple(_row_values(lowering, level))
        emit(lowering, f"{name}_pass_{level + 1}", stored)
        names = " and ".join(target.array.name for target in stored)
        lowering.notes.append(f"Pass {level + 1} over the keys finishes {names} for the next.")
    emit(lowering, name, targets)


def emit_solves(lowering: Lowering, name: str) -> None:
    """The kernels of unknowns that nobody has solved yet, each after those it is made of."""
    for one in tuple(lowering.reductions.solves.values()):
        if one.low.name not in {space.array.name for space in lowering.workspaces}:
            emit_solve(lowering, one, f"{name}_{one.low.name}", emit_passes)


def targets_of(graph: Graph) -> tuple[Lowering, tuple[Target, ...]]:
    """The frame of a graph, and its outputs as formulas of reductions."""
    frame = frame_of(graph)
    names = Names(names_in(graph) | {REFERENCE})
    lowering = Lowering(frame, Reductions(frame, names=names), Preparations(names=names))
    lowering.turned = iterate(graph, lowering, emit_passes)
    targets = []
    for output in graph.outputs:
        expr = renamed(rewrite(output.expr, without_stop), lowering.turned)
        expr = lowering.reductions.finish(expr)
        rest = [i for i in output.array.indices if i not in frame.rows]
        if len(rest) > 1 or frame.held not in output.array.indices:
            raise refuse("out_colstats: an output that is not over rows")
        targets.append(Target(output.array, rest[0] if rest else None, expr))
    return lowering, tuple(targets)


def without_stop(node: Expr) -> Expr:
    """A node of an expression that is differentiated no more: what was held fast is as it is."""
    return node.args[0] if node.op == "stop" else simplify_node(node)


def frame_of(graph: Graph) -> Frame:
    """Rows are held, keys are walked."""
    if graph.recurrences:
        raise refuse("linear_state")
    if not graph.keys:
        raise refuse("pipeline")
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


def emit(
    lowering: Lowering,
    name: str,
    targets: tuple[Target, ...],
    added: tuple[Added, ...] = (),
    split: Index | None = None,
) -> None:
    """The kernels that compute the targets: one, or one for each reference and a map after them.
    `added` are sums that the first of them makes beside what it carries."""
    carries = carries_of(lowering, targets, added)
    if len(carries) == 1:
        lets, stores = Finish(lowering, carries).lower(targets)
        lowering.kernels.append(kernel_of(lowering.frame, name, carries[0], lets, stores, split))
        return
    assert not added, "sums beside what is carried need no reference"
    for number, carry in enumerate(carries, 1):
        stores = spill(lowering.frame, carry, f"{name}_{number}")
        lowering.workspaces.extend(Workspace(store.array, "accumulate") for store in stores)
        lowering.kernels.append(kernel_of(lowering.frame, f"{name}_{number}", carry, [], stores))
    lowering.notes.append(f"{len(carries)} exponents that differ: one loop over the keys for each.")
    lowering.kernels.extend(finish_kernels(lowering, f"{name}_joined", carries, targets))


def carries_of(
    lowering: Lowering, targets: tuple[Target, ...], added: tuple[Added, ...] = ()
) -> list[Carry]:
    """What the targets' reductions carry: one for each reference."""
    reductions = lowering.reductions
    used: dict[str, None] = {}
    asked: dict[str, None] = {}
    for node in postorder(*(target.expr for target in targets)):
        if node.op == "value" and str(node.attr) in reductions.entries:
            used.setdefault(str(node.attr))
        elif node.op == "value" and str(node.attr).startswith(SEEN):
            asked.setdefault(str(node.attr).removeprefix(SEEN))
    if not used and not added:
        raise refuse("elementwise: an output without a fold over keys")
    groups = group(reductions.entries[name] for name in used) or [Group()]
    witnesses = {names: witness(groups, reductions, names.split("+")) for names in asked}
    carries = []
    for members in groups:
        builder = LoopBuilder(lowering.frame, members, lowering.preparations, added)
        builder.build()
        notes = (_reference_note(members), *builder.notes)
        lowering.notes.extend(note for note in notes if note not in lowering.notes)
        carries.append(Carry(members, builder.carried, builder, witnesses))
    return carries


def _reference_note(members: Group) -> str:
    if members.exponents:
        return "Sums are carried relative to the running maximum of the weights' exponent."
    return NO_EXPONENT


def kernel_of(
    frame: Frame,
    name: str,
    carry: Carry,
    finish: list[Let],
    stores: tuple[Store, ...],
    split: Index | None = None,
) -> StreamKernel:
    """The stream kernel of a carry."""
    builder = carry.builder
    return StreamKernel(
        name,
        (*((split,) if split else ()), *frame.grid),
        frame.held,
        tuple(builder.hoister.lets["grid"]),
        tuple(builder.hoister.lets["held"]),
        tuple(carry.names.carried),
        tuple(builder.loops),
        tuple(finish),
        stores,
        split=split,
    )
