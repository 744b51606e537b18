"""The driver: from a source to an operator, one stage after another.

    Source -> syntax -> Spec -> Graph -> Schedule -> Emitted -> Operator

Each arrow is one function; `attnc show FILE --emit STAGE` prints what stands between two of them.
"""

from __future__ import annotations

import builtins
import marshal
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from attnc.errors import AttncError, UnsupportedError
from attnc.front import NumberValue, load_source, read_spec
from attnc.source import Source
from attnc.spec import Spec
from attnc.stages import Stages

if TYPE_CHECKING:
    from attnc.operator import Operator
    from attnc.schedule import Schedule

BACKENDS = ("auto", "triton", "cpu", "eager", "numpy")


def compile(
    source: str | Path,
    *,
    backend: str = "auto",
    name: str | None = None,
    statics: Mapping[str, NumberValue] | None = None,
    **more: NumberValue,
) -> Operator:
    """Compiles an operator from a path or from the text itself.

    backend   "auto": Triton kernels for tensors on a GPU, C++ kernels for those on the CPU; or one
              of "triton", "cpu"; "eager" (dense torch) and "numpy" (the oracle) run every spec
    name      which operator of the file, if not the one named as the file, else the last
    statics   values of the spec's statics, which may be given as keywords too, but for one that is
              called as a keyword of this function

    Raises SpecError with every mistake in the text, UnsupportedError where no kernel can run it.
    """
    given = {**(statics or {}), **more}
    return compile_source(load_source(source), name, backend=backend, statics=given)


def compile_source(
    source: Source,
    name: str | None = None,
    *,
    backend: str = "auto",
    statics: Mapping[str, NumberValue] | None = None,
) -> Operator:
    """Compiles a source (see `compile`)."""
    from attnc.operator import Operator

    if backend not in BACKENDS:
        raise AttncError(f"backend={backend!r}: expected one of {', '.join(BACKENDS)}")
    found = Operator(read_spec(source, name, statics), backend)
    found.statics = dict(statics or {})
    return found


def lower(spec: Spec, asked: Sequence[str] | None = None) -> Stages:
    """Spec -> Graph -> Schedule: the result with the emits asked for; if that is not said, with
    what costs nothing beside it (`lse` where there is a score). What no single schedule runs may be
    a pipeline of several."""
    from attnc.passes.key_blocks import with_key_blocks
    from attnc.passes.pairs import pairs_of_reals

    spec = with_key_blocks(spec)
    try:
        found = pairs_of_reals(spec)
    except UnsupportedError as refusal:
        return replace(lower_reference(spec), refusal=refusal)
    if found is None:
        return _lower(spec, asked)
    parts, pairs = found
    names = None if asked is None else [p for n in asked for p in pairs.names.get(n, (n,))]
    result = spec.root.result.array.name
    return replace(_lower(parts, names, pairs.names.get(result, ("",))[1:]), pairs=pairs)


def _lower(spec: Spec, asked: Sequence[str] | None, more: tuple[str, ...] = ()) -> Stages:
    """The stages of an operator without complex numbers. `more`: emits that it gives in any
    case."""
    from attnc.passes import lower as lower_spec
    from attnc.passes import prepare
    from attnc.passes.scans import repeats_for_rows

    offered = (one.array.name for one in spec.root.offered)
    emits = tuple(n for n in offered if short_name(n) == "lse") if asked is None else tuple(asked)
    emits += tuple(state.array.name for state in spec.root.states)
    emits = (*more, *(name for name in emits if name not in more))
    graph = prepare(spec, emits)
    try:
        found = Stages(spec, graph, lower_spec(spec, emits), None)
    except UnsupportedError as refusal:
        return _lower_pipeline(spec, Stages(spec, graph, None, refusal))
    if found.schedule is None or not repeats_for_rows(found.schedule):
        return found
    before = _lower_pipeline(spec, found)
    return before if before.pipeline is not None else found


def lower_trained(spec: Spec, stages: Stages) -> Stages:
    """The stages that calls with gradients run: these, if they have a derivative; else those of a
    pipeline that makes every equation before its kernels, if that has one."""
    from attnc.family import trains
    from attnc.passes.stages import has_stages

    runs = stages.schedule is not None or stages.pipeline is not None
    if not runs or stages.pairs is not None or not has_stages(spec, before=True) or trains(stages):
        return stages
    refused = Stages(spec, stages.graph, None, stages.refusal)
    found = _lower_pipeline(spec, refused, before=True)
    return found if found.pipeline is not None and trains(found) else stages


def _lower_pipeline(spec: Spec, refused: Stages, before: bool = False) -> Stages:
    """Spec -> Pipeline; what was refused, where there is nothing to take apart, with the reason of
    the stage that no kernel runs. `before`: see `stages`."""
    from attnc.emission.kernel_set import emit_kernels
    from attnc.passes.grouped import with_group_statistics
    from attnc.passes.stages import has_stages, in_parts, stages

    def accept(schedule: Schedule) -> None:
        emit_kernels({"cpu": schedule, "triton": schedule})

    by_groups = with_group_statistics(spec)
    if by_groups is not None:
        found = _lower_pipeline(by_groups, refused, before)
        if found.pipeline is not None:
            return found
    if not has_stages(spec, before):
        return refused
    parts = in_parts(spec, accept)
    if parts is not None:
        return Stages(parts[0], lower_reference(parts[0]).graph, None, None, parts[1])
    whole = lower_reference(spec)
    try:
        return Stages(spec, whole.graph, None, None, stages(spec, accept, before))
    except UnsupportedError as refusal:
        return Stages(spec, refused.graph, None, refusal)


def lower_reference(spec: Spec) -> Stages:
    """The stages of an operator that only its references run."""
    from attnc.build import build

    emits = tuple(one.array.name for one in (*spec.root.emits, *spec.root.offered))
    emits += tuple(state.array.name for state in spec.root.states)
    refusal = UnsupportedError("an operator without kernels", "kernel", ("eager", "numpy"))
    return Stages(spec, build(spec, emits), None, refusal)


def short_name(name: str) -> str:
    """`lse` of `coarse.lse`."""
    return name.rpartition(".")[2]


def emit_module(spec: Spec, stages: Stages | None = None) -> str:
    """Spec -> the text of a Python module with every backend that can run it, its partial results
    and its derivatives: what a user ships."""
    from attnc.emission.contents import with_contents
    from attnc.emission.module import print_module
    from attnc.family import members

    stages = lower_trained(spec, stages or lower(spec))
    if stages.pipeline is not None:
        found = {one.block: members(one.stages) for one in stages.pipeline.kernels}
        return with_contents(print_module(stages, found))
    return with_contents(print_module(stages, {"": members(stages)}))


def emit_kernels(stages: Stages) -> str:
    """The text of the module with the operator's own kernels alone: what a program imports. The
    further kernel sets are printed when they are asked for (see `load_chapter`)."""
    from attnc.emission.module import print_module

    return print_module(stages)


def load_module(text: str, name: str) -> Any:
    """Writes a module's text to the cache (once) and imports it. What all modules share is a file
    of its own there, compiled once."""
    import importlib.util
    import sys

    from attnc.emission.module import module_digest, split_support

    digest = module_digest(text)
    qualified = f"attnc_{name}_{digest}"
    if qualified in sys.modules:
        return sys.modules[qualified]
    support, own = split_support(text)
    path = _written(f"{name}_{digest}.py", own)
    found = importlib.util.spec_from_file_location(qualified, path)
    assert found is not None and found.loader is not None
    module = importlib.util.module_from_spec(found)
    sys.modules[qualified] = module
    try:
        if support:
            exec(marshal.loads(_compiled_support(support)), vars(module))
        found.loader.exec_module(module)
    except BaseException:
        del sys.modules[qualified]
        raise
    return module


@cache
def _compiled_support(text: str) -> bytes:
    """The code of a support part, marshalled: every module gets code objects of its own, to which
    torch.compile ties what it knows of a module's globals."""
    from importlib.machinery import SourceFileLoader

    from attnc.cache import cache_folder, write_once
    from attnc.emission.module import module_digest

    digest = module_digest(text)
    path = write_once(cache_folder("support") / f"{digest}.py", text)
    name = f"attnc_support_{digest}"
    return marshal.dumps(SourceFileLoader(name, str(path)).get_code(name))


def load_chapter(stages: Stages, module: Any, stage: str, name: str) -> None:
    """Adds a further kernel set, of a stage if one is named, to a module that was imported with the
    first alone: its text is written to the cache and runs in the module's namespace."""
    from attnc.emission.module import module_digest, print_chapter
    from attnc.emission.pipeline import stage_of
    from attnc.family import member_or_refusal

    own = stage_of(stages, stage).stages if stage else stages
    text = print_chapter(stages, name, member_or_refusal(own, name), stage)
    path = _written(f"{own.spec.name}_{name}_{module_digest(text)}.py", text)
    namespace = vars(module)
    exec(builtins.compile(text, str(path), "exec"), namespace)
    namespace.pop("tl", None)  # new functions of Triton: the next launch takes them too


def _written(file: str, text: str) -> Path:
    """The file of the cache that holds a module's text."""
    from attnc.cache import cache_folder, write_once

    return write_once(cache_folder("modules") / file, text)
