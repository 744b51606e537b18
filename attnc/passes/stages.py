"""Spec -> Pipeline: the blocks of a body as operators of their own, in order.

    does      makes of each block with clauses or states a Spec whose inputs are what other stages
              make; leaves pointwise equations of rows and keys to the kernels that read them, and
              makes what sums over tokens, chooses, or comes from another block a stage before
    needs     a checked Spec
    does not  print the equations between the stages: the eager form does (backends/composed)

An equation next to a kernel is inlined where its kernel can be lowered so; where it cannot, every
equation that has no pair of row and key is made before.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from itertools import permutations

from attnc.build import blocks
from attnc.errors import UnsupportedError
from attnc.expressions.tree import SELECTS, Array, Expr, postorder
from attnc.passes.bands import bands_of
from attnc.passes.carried import carries, check_row, given_for, of_one_row, read_by_updates
from attnc.passes.parted import parted
from attnc.passes.pipeline import lower, prepare
from attnc.passes.stage_specs import operator_of, short
from attnc.schedule import Schedule
from attnc.spec import Block, Definition, Repeat, Spec
from attnc.stages import Carry, KernelStage, Pipeline, Stages

EASY = "lse"  # what every softmax kernel knows anyway


Accept = Callable[[Schedule], object]


def stages(spec: Spec, accept: Accept, before: bool = False) -> Pipeline:
    """The pipeline of a Spec. Raises UnsupportedError for a block that no kernel can run.

    accept    raises UnsupportedError for a schedule that no backend has text for
    before    whether every equation that has no pair is made before its kernel"""
    body = Body(spec, before)
    found = [
        (_row_stage if carries(block) else _kernel_stage)(body, block, accept)
        for block in body.kernel_blocks
    ]
    ordered = tuple(_ordered(body, found))
    return Pipeline(ordered, bands_of(spec, ordered))


def in_parts(spec: Spec, accept: Accept) -> tuple[Spec, Pipeline] | None:
    """A state beside keys as a scan and a pass over keys that is given what the scan reads; None
    where they are one, or where a kernel cannot run a part of it."""
    found = parted(spec)
    if found is None:
        return None
    needed = tuple(one.array.name for one in found.reads[1:])
    blocks = ((found.scanning, needed), (found.walking, ()))
    try:
        scan, walk = (
            _kernel_stage(Body(replace(found.spec, root=block)), block, accept, names)
            for block, names in blocks
        )
    except UnsupportedError:
        return None
    if {name for name, _ in scan.provides} != {one.array.name for one in found.reads}:
        return None
    states = tuple(state.array for state in spec.root.states)
    return found.spec, Pipeline((replace(scan, states=states), walk))


def has_stages(spec: Spec, before: bool = False) -> bool:
    """Whether a body is made of more than one block's clauses: of blocks, or of equations that
    another stage can make (`before`: of any that have no pair)."""
    body = Body(spec, before)
    if spec.root.states:
        return carries(spec.root)
    if len(body.kernel_blocks) != 1 or not has_kernel(spec.root):
        return True
    cut = _cuts(body, spec.root, (), False)
    return bool(cut) or any(_is_dense(body, name) for name in _cuts(body, spec.root, (), True))


class Body:
    """The equations of a Spec by name, and what they are made of."""

    def __init__(self, spec: Spec, before: bool = False) -> None:
        self.spec = spec
        self.before = before
        self.blocks = list(blocks(spec.root))
        self.kernel_blocks = [one for one in self.blocks if has_kernel(one)]
        self.definitions: dict[str, Definition] = {}
        self.repeats: dict[str, Repeat] = {}
        self.results: dict[str, Block] = {}
        self.owners: dict[str, Block] = {}
        for block in self.blocks:
            self._enter(block)
        self.tokens = {index.axis.name for one in self.kernel_blocks for index in one.rows}
        self.tokens |= {
            key.axis.name for one in self.kernel_blocks for s in one.sources for key in s.keys
        }
        self.tokens |= {index.axis.name for one in self.blocks for index in one.rows} | {"b"}
        self.tokens |= {axis.name for axis in spec.axes if axis.shifted}

    def _enter(self, block: Block) -> None:
        for each in block.statements:
            if isinstance(each, Definition):
                self.definitions.setdefault(each.array.name, each)
                self.owners[each.array.name] = block
            elif isinstance(each, Repeat):
                self.repeats |= {line.array.name: each for line in each.statements}
        for each in (block.result, *block.emits, *block.offered):
            self.definitions.setdefault(each.array.name, each)
            self.owners[each.array.name] = block
        self.results[block.result.array.name] = block

    def read_by(self, name: str) -> list[Array]:
        """What an array is made of, as written."""
        exprs = [self.definitions[name].expr] if name in self.definitions else []
        if name in self.repeats:
            lines = self.repeats[name].statements
            exprs += [line.expr for line in lines] + [self.repeats[name].count]
            exprs += [
                self.definitions[line.array.name].expr
                for line in lines
                if line.array.name in self.definitions
            ]
        return arrays_in(exprs)

    def below(self, names: Iterable[str]) -> set[str]:
        """The arrays that these are made of, themselves among them."""
        found: set[str] = set()
        todo = list(names)
        while todo:
            name = todo.pop()
            if name not in found:
                found.add(name)
                todo += [array.name for array in self.read_by(name)]
        return found

    def demanded(self) -> set[str]:
        """The arrays that anything reads, or that are outputs."""
        root = self.spec.root
        names = {each.array.name for each in (root.result, *root.emits)}
        exprs = [one.expr for one in self.definitions.values()]
        exprs += [line.expr for each in self.repeats.values() for line in each.statements]
        return names | {array.name for array in arrays_in(exprs)}


def has_kernel(block: Block) -> bool:
    """Whether a block has clauses or states: the equations alone are no kernel."""
    clauses = (s.mask or s.score or s.weight for s in block.sources)
    return bool(block.states) or any(clause is not None for clause in clauses)


def arrays_in(exprs: Iterable[Expr]) -> list[Array]:
    """The arrays that expressions read, each once."""
    nodes = (node for node in postorder(*exprs) if node.op in ("read", "grad"))
    return list({node.array.name: node.array for node in nodes}.values())


# ------------------------------------------------------------------------------------- one block


def _row_stage(body: Body, block: Block, accept: Accept) -> KernelStage:
    """The stage of a block that carries values from row to row: the operator of one row, to which
    they are inputs. It gives the clauses that the updates read."""
    row = of_one_row(body.spec, block)
    inner = Body(row, body.before)
    still = next(one for one in inner.blocks if one.name == block.name)
    given, read = given_for(block), read_by_updates(block)
    clauses = tuple((name, given[name].array.name) for name in read if name in given)
    needed = tuple(output for _, output in clauses)
    stage = _kernel_stage(inner, still, accept, needed, check_row)
    made = {name for name, _ in stage.provides}
    kept = tuple((name, output) for name, output in clauses if output in made)
    states = tuple(state.array for state in block.states)
    return replace(stage, carry=Carry(block.rows[-1], states, kept))


def _kernel_stage(
    body: Body,
    block: Block,
    accept: Accept,
    needed: tuple[str, ...] = (),
    check: Callable[[Spec], None] = lambda spec: None,
) -> KernelStage:
    """The stage of a block: pointwise equations within its kernels, else all of them before.
    `needed`: emits that it had better give; `check` raises UnsupportedError for its Spec."""
    emits = tuple(dict.fromkeys((*needed, *_emits(body, block))))
    easy = tuple(one for one in emits if short(one) == EASY)
    refusals: list[UnsupportedError] = []
    for wanted in dict.fromkeys((emits, needed, easy, ())):
        for before in (False, True):
            try:
                return _lowered(body, block, wanted, before, accept, check)
            except UnsupportedError as refusal:
                refusals.append(refusal)
    first = refusals[-2] if len(refusals) > 1 else refusals[-1]
    feature = f"{first.feature} (in the stage `{block.name}`)"
    raise UnsupportedError(feature, first.backend, first.instead)


def _emits(body: Body, block: Block) -> tuple[str, ...]:
    """What others read of a block besides its result, and its log-sum-exp."""
    demanded = body.demanded()
    own = block is body.spec.root
    return tuple(
        one.array.name
        for one in (*block.emits, *block.offered)
        if one.array.name in demanded or (own and short(one.array.name) == EASY)
    )


def _lowered(
    body: Body,
    block: Block,
    emits: tuple[str, ...],
    before: bool,
    accept: Accept,
    check: Callable[[Spec], None],
) -> KernelStage:
    made = operator_of(body, block, emits, _cuts(body, block, emits, before))
    check(made.spec)
    names = tuple(output for _, output in made.provides[1:])
    names += tuple(state.array.name for state in made.spec.root.states)
    schedule = lower(made.spec, names)
    accept(schedule)
    return KernelStage(
        block.name,
        Stages(made.spec, prepare(made.spec, names), schedule, None),
        made.arguments,
        made.lengths,
        made.provides,
    )


def _cuts(body: Body, block: Block, emits: tuple[str, ...], before: bool) -> set[str]:
    """The arrays that other stages make for a block."""
    pairs = {
        clause.name
        for source in block.sources
        for clause in (source.mask, source.score, source.weight)
        if clause is not None
    }
    pairs |= {state.array.name for state in block.states}
    pairs |= {line.array.name for line in block.updates}
    rows = {index.axis.name for index in block.rows}
    keys = {key.axis.name for source in block.sources for key in source.keys}
    cuts: set[str] = set()
    todo = [block.result.array.name, *emits, *pairs]
    todo += [a.name for a in arrays_in(_stateful(block))]
    seen: set[str] = set()
    while todo:
        name = todo.pop()
        if name in seen:
            continue
        seen.add(name)
        definition = body.definitions.get(name)
        if definition is None and name not in body.repeats:
            continue
        final = name in emits or name == block.result.array.name
        dense = (before or body.before) and _is_dense(body, name)
        own = body.below([name]) & pairs and not dense
        if not (own or final) and _apart(body, name, rows, keys, before):
            cuts.add(name)
        else:
            todo += [array.name for array in body.read_by(name)]
    return cuts


def _stateful(block: Block) -> list[Expr]:
    return [*(s.initial for s in block.states), *(line.expr for line in block.updates)]


def _apart(body: Body, name: str, rows: set[str], keys: set[str], before: bool) -> bool:
    """Whether an array that no pair of the block goes into is made before it."""
    if name in body.repeats or name in body.results:
        return True
    definition = body.definitions[name]
    owner = body.owners[name]
    if has_kernel(owner) and "." in name:  # an emit or a clause of another block
        return True
    axes = [axis.name for axis in definition.array.axes]
    of_pairs = any(one in rows and other in keys for one, other in permutations(axes, 2))
    if not of_pairs and (before or body.before or _is_choice(definition)):
        return True
    return any(_heavy(node, body.tokens) for node in postorder(definition.expr))


def _is_choice(definition: Definition) -> bool:
    """Whether an array holds truths that a fold decides."""
    folds = any(node.bound for node in postorder(definition.expr))
    return definition.array.kind == "bool" and folds


def _is_dense(body: Body, name: str) -> bool:
    """Whether an array is chosen or repeated: where a kernel cannot, torch makes it of all pairs,
    of the block's own masks and scores too."""
    if name in body.repeats:
        return True
    definition = body.definitions.get(name)
    return definition is not None and any(n.op in SELECTS for n in postorder(definition.expr))


def _heavy(node: Expr, tokens: set[str]) -> bool:
    """Whether a node goes over tokens, chooses, or is a product with a matrix: what a library does
    better than the loop of a kernel."""
    if node.op in (*SELECTS, "solve"):
        return True
    if any(index.axis.name in tokens for index in node.bound):
        return True
    widths = (axis for axis in (index.axis for index in node.free) if axis.name not in tokens)
    return bool(node.bound) and any(
        axis.form in ("measured", "range") and axis.name != "h" for axis in widths
    )


def _ordered(body: Body, found: list[KernelStage]) -> Iterator[KernelStage]:
    """Each stage after those whose arrays it is made of."""
    makers = {name: stage for stage in found for name, _ in stage.provides}
    done: set[str] = set()
    waiting = list(reversed(found))
    while waiting:
        stage = waiting.pop()
        if stage.block in done:
            continue
        below = body.below([*(array.name for _, array in stage.arguments), *_between(body, stage)])
        needed = [maker for name, maker in makers.items() if name in below]
        missing = [one for one in needed if one.block not in done and one is not stage]
        if missing:
            waiting += [stage, *missing]
            continue
        done.add(stage.block)
        yield stage


def _between(body: Body, stage: KernelStage) -> list[str]:
    """What updates between the rows of a stage read."""
    if stage.carry is None:
        return []
    block = next(one for one in body.blocks if one.name == stage.block)
    return [array.name for array in arrays_in(_stateful(block))]
