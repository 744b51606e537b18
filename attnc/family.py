"""The further kernel sets of an operator: what each is lowered from.

partial, merge, finish                partial results over shards of the keys
partial_backward, ... (each of them)  the backward of a shard, of the merge, of the finish
partial_second, ...                   the backward of that
partial_tangent, ...                  the tangents of what each of them gives
training, backward                    the operator with what its backward reads, and that
training_emits, backward_emits        the same of the result and every emit, where that is a set of
                                      its own: most often one set serves both (`Member.emits`)
second, second_emits                  the backward of a backward, likewise
tangent                               the outputs with their tangents; tangent_5: along the first
                                      and the third input alone
continued                             a recurrence that goes on: every state is given to it, and the
                                      rows before that it reads; continued_training_emits,
                                      continued_backward_emits: its gradients
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import lru_cache
from typing import Literal

from attnc.continued import continued
from attnc.errors import AttncError, InternalError, UnsupportedError
from attnc.passes.absent import with_absent
from attnc.passes.backward import (
    Derivative,
    lower_backward_tangent,
    lower_derivative,
    lower_second,
    lower_tangent,
)
from attnc.passes.shard_gradients import (
    ShardGradient,
    lower_shard,
    lower_shard_backward_tangent,
    lower_shard_second,
    lower_shard_tangent,
)
from attnc.schedule import Schedule
from attnc.signature import Lag
from attnc.spec import Spec
from attnc.stages import Links, Member, Stages

FORMS: tuple[Literal["partial", "merge", "finish"], ...] = ("partial", "merge", "finish")
OF_FORMS = tuple(f"{form}_backward" for form in FORMS)
OVER_REVERSE = ("backward_tangent", "backward_emits_tangent")
OF_RESULT = ("training", "backward", "second")
OF_EMITS = ("training_emits", "backward_emits", "second_emits")
CONTINUED = ("continued", "continued_training_emits", "continued_backward_emits")
BACKENDS = ("cpu", "triton")
WORDS = {
    "partial": "a partial result",
    "merge": "the merge of partial results",
    "finish": "the finish of a partial result",
    **{f"{form}_backward": f"the backward of {form}" for form in FORMS},
    **{f"{form}_second": f"the backward of the backward of {form}" for form in FORMS},
    **{f"{form}_tangent": f"jvp of {form}" for form in FORMS},
    **{f"{form}_backward_tangent": f"jvp of the backward of {form}" for form in FORMS},
    "training": "the backward (reverse-mode derivative)",
    "backward": "the backward (reverse-mode derivative)",
    "second": "the backward of a backward (second order)",
    "tangent": "jvp (the forward-mode derivative)",
    **dict.fromkeys(OVER_REVERSE, "jvp of a backward (forward over reverse)"),
}
# The CPU walks once and deposits the rows' gradients; on a GPU two walks need no order.
SWEEPS: dict[str, Literal["one", "two"]] = {"cpu": "one", "triton": "two"}


def member_names(stages: Stages) -> tuple[str, ...]:
    """The further kernel sets of an operator, in the order of a written module."""
    emits = OF_EMITS if emits_of(stages) else ()
    return (
        *FORMS,
        *OF_FORMS,
        *OF_RESULT,
        *emits,
        "tangent",
        *(CONTINUED if _goes_on_apart(stages) else ()),
    )


def _goes_on_apart(stages: Stages) -> bool:
    """Whether another kernel set takes states: where a first state is made of other inputs, or rows
    before are read."""
    assert stages.schedule is not None
    signature = stages.schedule.signature
    made = not {one.name for one in signature.inputs}.issuperset(signature.states)
    return made or bool(signature.lags)


def members(stages: Stages) -> dict[str, Member | UnsupportedError]:
    """Every further kernel set, or why there is none."""
    if stages.schedule is None:
        return {}
    found: dict[str, Member | UnsupportedError] = {}
    for name in member_names(stages):
        known = found.get(name.removesuffix("_emits"))
        if isinstance(known, Member) and known.emits:
            continue
        found[name] = member_or_refusal(stages, name)
    return found


def member_or_refusal(stages: Stages, name: str) -> Member | UnsupportedError:
    """A further kernel set, or why there is none."""
    try:
        return lower_member(stages, name)
    except UnsupportedError as refusal:
        kind = "tangent" if _is_tangent(name) else name.removesuffix("_emits")
        what = WORDS.get(kind, name.replace("_", " "))
        # By torch's own autograd; the dense formula has no partial results.
        instead = () if name.partition("_")[0] in FORMS else ("eager",)
        return UnsupportedError(f"{what} ({refusal.feature})", refusal.backend, instead)


def trains(stages: Stages) -> bool:
    """Whether the operator, or every stage of a pipeline, has a backward."""
    every = [one.stages for one in stages.pipeline.kernels] if stages.pipeline else [stages]
    return not any(isinstance(member_or_refusal(o, "backward"), UnsupportedError) for o in every)


def emits_of(stages: Stages) -> tuple[str, ...]:
    """The emits that the operator's kernels offer."""
    assert stages.schedule is not None
    return tuple(output.name for output in stages.schedule.signature.outputs[1:])


def lower_member(stages: Stages, name: str) -> Member:
    """A further kernel set of an operator. Raises UnsupportedError where it cannot be derived."""
    from attnc.passes import lower

    spec, emits = stages.spec, emits_of(stages)
    for form in FORMS:
        if name == form:
            schedule = lower(spec, emits, form)
            results = 1 if form == "finish" else len(schedule.signature.outputs)
            return Member(name, _everywhere(schedule), results)
        if name == f"{form}_backward":
            return _of_form(name, {b: lower_shard(spec, emits, form, SWEEPS[b]) for b in BACKENDS})
        if name == f"{form}_second":
            return _of_form(name, dict.fromkeys(BACKENDS, lower_shard_second(spec, emits, form)))
        if name == f"{form}_backward_tangent":
            over = lower_shard_backward_tangent(spec, emits, form)
            return _of_form(name, dict.fromkeys(BACKENDS, over))
        if name == f"{form}_tangent":
            return _of_form(name, dict.fromkeys(BACKENDS, lower_shard_tangent(spec, emits, form)))
    if name == "continued":
        own = continued_spec(stages)
        return Member(name, _everywhere(lower(own, emits)), spec=own)
    if name in CONTINUED:
        own = continued_spec(stages)
        going = Stages(own, stages.graph, lower(own, emits), None)
        return replace(lower_member(going, name.removeprefix("continued_")), name=name, spec=own)
    if _is_tangent(name):
        return _tangent(name, lower_tangent(spec, emits, _along(name, stages)))
    if name in OVER_REVERSE:
        return _tangent(name, lower_backward_tangent(spec, emits if "emits" in name else ()))
    kind, _, of = name.partition("_")
    taken = emits if of == "emits" else ()
    if kind == "second" and of in ("", "emits"):
        return _second(name, spec, taken, emits)
    if kind not in ("training", "backward") or of not in ("", "emits"):
        raise UnsupportedError("not derived yet", "kernel", ("eager",))
    both = _serve_both(spec, emits)
    derive = _for_both if both else _derivative
    among = emits if both else taken
    derived = {backend: derive(spec, among, SWEEPS[backend]) for backend in BACKENDS}
    if len({_names(one) for one in derived.values()}) > 1:
        raise InternalError(f"{spec.name}: backends disagree on what the forward keeps")
    if kind == "training":
        schedules = {backend: one.forward for backend, one in derived.items()}
        return Member(name, schedules, emits=both)
    links = _links(derived["cpu"])
    schedules = {backend: one.backward for backend, one in derived.items()}
    return Member(name, schedules, 0, links, emits=both)


@lru_cache(maxsize=8)
def _continued(spec: Spec, lags: tuple[Lag, ...]) -> Spec:
    return continued(spec, {lag.name: lag.most for lag in lags})


def continued_spec(stages: Stages) -> Spec:
    """The Spec of a recurrence that goes on. Raises UnsupportedError where nothing can hold the
    rows before that it reads."""
    assert stages.schedule is not None
    signature = stages.schedule.signature
    if signature.unbounded:
        feature = f"to go on from a state: {signature.unbounded} reads rows without a bound"
        raise UnsupportedError(feature, "kernel", ())
    return _continued(stages.spec, signature.lags)


def _of_form(name: str, derived: dict[str, ShardGradient]) -> Member:
    """A derivative of a shard, of the merge or of the finish."""
    one = derived["cpu"]
    links = Links(one.reads, (), one.cotangents, one.gradients)
    return Member(name, {backend: each.schedule for backend, each in derived.items()}, 0, links)


@lru_cache(maxsize=64)
def _derivative(spec: Spec, emits: tuple[str, ...], sweep: Literal["one", "two"]) -> Derivative:
    """A training form and its backward are lowered together."""
    return lower_derivative(spec, emits, sweep)


@lru_cache(maxsize=64)
def _for_both(spec: Spec, emits: tuple[str, ...], sweep: Literal["one", "two"]) -> Derivative:
    """The derivative of the result and every emit whose backward serves calls without cotangents of
    emits too. Raises UnsupportedError where the two are better kept apart."""
    found = _derivative(spec, emits, sweep)
    backward = with_absent(found.backward, _of_emits(found, emits))
    if backward is None or set(found.reads) & set(emits):
        raise UnsupportedError("an emit's cotangent as a factor", "kernel")
    return replace(found, backward=backward)


def _of_emits(derivative: Derivative, emits: tuple[str, ...]) -> list[str]:
    """The cotangents of emits."""
    return [cotangent for name, cotangent in derivative.cotangents if name in emits]


def _serve_both(spec: Spec, emits: tuple[str, ...]) -> bool:
    """Whether one training form and one backward serve calls with emits and without."""
    try:
        return bool(emits and [_for_both(spec, emits, sweep) for sweep in SWEEPS.values()])
    except UnsupportedError:
        return False


def _names(derivative: Derivative) -> tuple[str, ...]:
    """What a module's one signature says of a backward: inputs and outputs in order."""
    signature = derivative.backward.signature
    return tuple(one.name for one in (*signature.inputs, *signature.outputs))


def _links(derivative: Derivative) -> Links:
    saved = tuple(array.name for array in derivative.saved)
    return Links(derivative.reads, saved, derivative.cotangents, derivative.gradients)


def _second(name: str, spec: Spec, taken: tuple[str, ...], emits: tuple[str, ...]) -> Member:
    """The backward of the backward: cotangents of its gradients in, gradients of its inputs out.
    Two sweeps everywhere: one sweep has rows of one kind to deposit."""
    shared = _second_for_both(spec, emits) if _serve_both(spec, emits) else None
    schedule = shared or lower_second(spec, taken, "two")
    first = _derivative(spec, emits if shared else taken, "one").backward.signature
    given = [tensor.name for tensor in schedule.signature.inputs]
    made = [tensor.name for tensor in schedule.signature.outputs]
    links = Links(
        cotangents=_paired([tensor.name for tensor in first.outputs], given),
        gradients=_paired([tensor.name for tensor in first.inputs], made),
    )
    return Member(name, _everywhere(schedule), 0, links, emits=shared is not None)


def _second_for_both(spec: Spec, emits: tuple[str, ...]) -> Schedule | None:
    """The second order of the result and every emit that serves calls without cotangents of emits
    too, if there is one."""
    names = _of_emits(_for_both(spec, emits, "one"), emits)
    try:
        return with_absent(lower_second(spec, emits, "two"), names, factors=True)
    except UnsupportedError:
        return None


def _paired(names: Sequence[str], among: Sequence[str]) -> tuple[tuple[str, str], ...]:
    """Each name with its `NAME_grad`, which may end in `_` where that name was taken."""
    found = {other.rstrip("_"): other for other in among}
    return tuple((name, found[f"{name}_grad"]) for name in names if f"{name}_grad" in found)


def _is_tangent(name: str) -> bool:
    whole, _, places = name.partition("_")
    return whole == "tangent" and (not places or places.isdecimal())


def _along(name: str, stages: Stages) -> frozenset[str] | None:
    """The inputs that move: of `tangent_5` the first and the third, of `tangent` all."""
    mask = int(name.removeprefix("tangent").strip("_") or "0")
    assert stages.schedule is not None
    inputs = stages.schedule.signature.inputs
    found = frozenset(one.name for place, one in enumerate(inputs) if mask >> place & 1)
    return found or None


def _tangent(name: str, schedule: Schedule) -> Member:
    """The outputs and their tangents."""
    inputs = {tensor.name for tensor in schedule.signature.inputs}
    outputs = {tensor.name for tensor in schedule.signature.outputs}
    alone = name in OVER_REVERSE  # without what they are the tangents of
    own = {n.removesuffix("_dot") for n in outputs} if alone else outputs
    links = Links(
        cotangents=tuple((n, f"{n}_dot") for n in sorted(inputs) if f"{n}_dot" in inputs),
        gradients=tuple((n, f"{n}_dot") for n in sorted(own) if f"{n}_dot" in outputs),
    )
    return Member(name, _everywhere(schedule), 0, links)


def _everywhere(schedule: Schedule) -> dict[str, Schedule]:
    """The same schedule for every backend."""
    return dict.fromkeys(BACKENDS, schedule)


def links_text(member: Member) -> str:
    """What a derivative takes from the forward, and what it gives, a line each."""
    links = member.links
    lines = []
    if links.reads or links.saved:
        lines.append(f"reads {', '.join(links.reads) or 'nothing'} of the forward's outputs")
        lines.append(f"saved by the forward: {', '.join(links.saved) or 'nothing'}")
    lines += [f"cotangent of {name}: {other}" for name, other in links.cotangents]
    lines += [f"derivative of {name}: {other}" for name, other in links.gradients]
    return "".join(f"{line}\n" for line in lines)


def derivative_graph_text(stages: Stages, name: str) -> str:
    """The graph of a derivative. Raises AttncError where the member has none."""
    from attnc.graph_text import graph_text
    from attnc.passes.differentiate import differentiate
    from attnc.passes.tangent import tangent

    kind = name.removesuffix("_emits")
    if kind == "tangent" and not stages.graph.iterations:
        return graph_text(tangent(stages.graph))
    if kind not in ("backward", "second"):
        raise _without_graph(name)
    if stages.graph.recurrences or stages.graph.iterations:
        raise _without_graph(f"{name} of a recurrence or of rounds")
    first = differentiate(stages.graph)
    return graph_text(differentiate(first) if kind == "second" else first)


def _without_graph(name: str) -> AttncError:
    return AttncError(
        f"{name} has no graph: it is derived as a schedule. Ask for --emit schedule, cpu or triton."
    )
