"""`attnc.Operator`: a compiled operator with its stages, its oracle and its explanation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any

from attnc.emission.separate import solves
from attnc.errors import UnsupportedError, ValueRangeError, did_you_mean
from attnc.infeasible import check_solved
from attnc.spec import Spec

if TYPE_CHECKING:
    from attnc.front import NumberValue
    from attnc.source import Source
    from attnc.stages import Stages


class Operator:
    """A compiled operator. Call it as its module's function; torch in, torch out, NumPy in, NumPy
    out.

    op(q, k, v, window=512)                     the result
    op(q, k, v, window=512, emit=("lse",))      (result, lse)
    op.partial(q, k, v, key_offset=n)           what a shard of the keys contributes, before the end
    op.finish(op.merge(part, other))            the result from the shards' contributions
    op.reference(q, k, v, window=512)           the same from the float64 oracle, as NumPy arrays
    op(q, k, v, state=s, return_state=True)     of a recurrence: (result, states after the last row)
    op.step(s, q_t, k_t, v_t)                   one row of it: (result, states)
    op.explain()                                what was derived, which kernels run
    op.source                                   the text of the module that attnc compile writes
    """

    def __init__(
        self,
        spec: Spec,
        backend: str = "auto",
        emits: tuple[str, ...] | None = None,
        stages: Stages | None = None,
    ) -> None:
        """`emits`: those that its kernels give beside the result (see `attnc.compiler.lower`); a
        call that asks for others has kernels of its own, compiled when it first comes. `stages`: if
        they are not those of `lower`."""
        if stages is not None:
            self.stages = stages
        self.spec = spec
        self.statics: Mapping[str, NumberValue] = {}  # as they were given, for a copy elsewhere
        self.backend = backend
        self.emits = emits
        self._asked: dict[frozenset[str], Operator] = {}
        self.__name__ = spec.name
        self._run = self._choose()
        self._solves = solves(spec)
        self._apart = self._may_train_apart()
        self._trained, self._sought = self, False

    def __call__(self, /, *args: Any, **kwargs: Any) -> Any:
        chosen = self._giving(kwargs["emit"]) if "emit" in kwargs else self
        if chosen._apart and asks_gradient(args, kwargs) and chosen._find_trained():
            chosen = chosen._trained
        result = chosen._run(*args, **kwargs)
        if self._solves:
            check_solved(self.spec, result, args, kwargs)
        return result

    def _giving(self, names: Any) -> Operator:
        """The operator whose kernels give these emits: this one, or one with kernels for them."""
        if self.emits is not None:
            return self
        named = isinstance(names, (tuple, list)) and all(isinstance(one, str) for one in names)
        asked = frozenset(names) if named else frozenset()  # a call refuses all else
        if asked not in self._asked:
            root = self.spec.root
            known = [one.array.name for one in (*root.offered, *root.emits)]
            self._check_emits(names, known)
            if self.backend in ("numpy", "eager"):
                return self
            schedule = self.stages.schedule
            own = {one.name for one in schedule.signature.outputs} if schedule else set(known)
            found = tuple(name for name in known if name in asked)
            further = bool(set(found) - own) and asked <= {*known, *own}
            self._asked[asked] = Operator(self.spec, self.backend, found) if further else self
        return self._asked[asked]

    def _check_emits(self, names: Any, known: Sequence[str]) -> None:
        """Raises ValueRangeError for the first name that no call gives."""
        known = [*known, *(state.array.name for state in self.spec.root.states)]
        for name in names if isinstance(names, (tuple, list)) else ():
            if isinstance(name, str) and name not in known:
                came = f"{name[:80]!r}. {did_you_mean(name, known)}".removesuffix(". ")
                expected = f"names among: {', '.join(known) or 'none'}"
                raise ValueRangeError(self.spec.name, "emit", expected, came)

    def __repr__(self) -> str:
        inputs = self.spec.inputs
        places = [given.name for given in inputs if given.positional]
        keywords = [given.name for given in inputs if not given.positional]
        names = ", ".join([*places, *(["*"] if keywords else []), *keywords])
        return f"<attnc.Operator {self.spec.name}({names}), backend {self.backend}>"

    def __copy__(self) -> Operator:
        return self  # a copied model calls the same kernels

    def __deepcopy__(self, memo: dict[int, Any]) -> Operator:
        return self

    def __reduce__(self) -> tuple[Any, ...]:
        return _restored, (self.spec.source, self.spec.name, self.statics, self.backend)

    @cached_property
    def stages(self) -> Stages:
        """Spec, Graph and Schedule."""
        from attnc.compiler import lower

        return lower(self.spec, self.emits)

    def _may_train_apart(self) -> bool:
        """Whether equations stand beside clauses, so that they may be made before the kernels."""
        if self.backend in ("numpy", "eager"):
            return False
        from attnc.passes.stages import has_stages

        return has_stages(self.spec, before=True)

    def _find_trained(self) -> bool:
        """Finds the operator that calls with gradients run, once: this one, or one whose equations
        are made before its kernels, where these have no derivative with the equations inside."""
        if self._apart and not self._sought:
            from attnc.compiler import lower_trained

            stages = lower_trained(self.spec, self.stages)
            if stages is not self.stages:
                self._trained = Operator(self.spec, self.backend, self.emits, stages)
            self._sought = True
        return self._trained is not self

    # As in attnc/jit.py: torch.compile calls this and traces none of it. It leaves `_apart` as it
    # is: where the compiler starts anew, it must find what it has looked at as it was.
    _find_trained._dynamo_marked_constant = True  # type: ignore[attr-defined]

    @cached_property
    def source(self) -> str:
        """The text of the module that attnc compile writes."""
        from attnc.compiler import emit_module

        return emit_module(self.spec, self.stages)

    @cached_property
    def module(self) -> Any:
        """The module, imported from the cache. It holds the operator's own kernels; partial results
        and derivatives join it when they are first asked for."""
        from attnc.compiler import emit_kernels, load_module

        module = load_module(emit_kernels(self.stages), self.spec.name)
        self._load_further(module, module.operator)
        return module

    def partial(self, /, *args: Any, **kwargs: Any) -> Any:
        """What a shard of the keys contributes, for `merge` and `finish`: called as the operator,
        with `key_offset` for the position of the shard's first key."""
        return self._further("partial")(*args, **kwargs)

    def step(self, state: Any, /, *args: Any, **kwargs: Any) -> Any:
        """One row of a recurrence: (result, states after it). Called as the operator, with tensors
        that lack the axis of time; `state` None is the first ones."""
        run = self._giving(kwargs["emit"])._run if "emit" in kwargs else self._run
        found = getattr(run, "step", None)
        if found is None:
            raise UnsupportedError("a step", self.backend, ("cpu", "eager"))
        return found(state, *args, **kwargs)

    def merge(self, /, *parts: Any, **own: Any) -> Any:
        """The partial results of disjoint shards as one. `own`: inputs that a merge reads."""
        return self._further("merge")(*parts, **own)

    def finish(self, /, part: Any, **own: Any) -> Any:
        """The result (and emits) from the partial result of all keys, in `dtype` (that of the
        statistics if it is not given). `own`: inputs that the finish reads."""
        return self._further("finish")(part, **own)

    def _further(self, name: str) -> Any:
        found = getattr(self._run, name, None)
        if found is None:
            if self.backend not in ("numpy", "eager"):
                check_parts(self.stages)
            raise UnsupportedError(f"a {name} result", self.backend, ("cpu", "triton"))
        return found

    def _load_further(self, module: Any, operator: Any) -> None:
        """What the module lacks is derived when it is asked for."""
        from attnc.compiler import load_chapter

        if hasattr(operator, "family"):
            operator.family.load = partial(load_chapter, self.stages, module, "")
        for name, stage in getattr(operator, "stages", {}).items():
            stage.family.load = partial(load_chapter, self.stages, module, name)

    def reference(self, /, *args: Any, **kwargs: Any) -> Any:
        """The oracle's answer to a call: float64 NumPy arrays; with `emit`, a tuple."""
        from attnc.reference import run_reference

        return run_reference(self.spec, args, kwargs)

    def explain(self) -> str:
        """What was derived, which kernel runs where, and what it costs."""
        from attnc.explanation import explain

        self._find_trained()
        return explain(self.spec, self.stages, self.backend, self._trained.stages)

    def _choose(self) -> Any:
        if self.backend == "numpy":
            from attnc.reference import numpy_operator

            return numpy_operator(self.spec)
        if self.backend == "eager":
            from attnc.reference import eager_operator

            return eager_operator(self.spec)
        if self.stages.refusal is not None:
            raise self.stages.refusal
        operator = self.module.operator
        if self.backend == "auto":
            return operator
        chosen = _restricted(self.module, self.backend)
        if not chosen.backends:
            why = " ".join(dict.fromkeys(chosen.refusals.values()))
            raise UnsupportedError(why or "this operator", self.backend, ("eager", "numpy"))
        self._load_further(self.module, chosen)
        if self.stages.pairs is not None:
            return self.module.PairedOperator(chosen, self.module.COMPLEX)
        return chosen


def _restored(
    source: Source, name: str, statics: Mapping[str, NumberValue], backend: str
) -> Operator:
    """The operator that was pickled, compiled from its text."""
    from attnc.compiler import compile_source

    return compile_source(source, name, backend=backend, statics=statics)


def check_parts(stages: Stages) -> None:
    """Raises UnsupportedError for a pipeline: what stands between its stages needs all keys."""
    if stages.pipeline is not None:
        raise UnsupportedError("a partial result of a pipeline: its stages need all keys", "kernel")


def asks_gradient(args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
    """Whether a call has tensors of torch that want a gradient."""
    return any(getattr(one, "requires_grad", False) for one in (*args, *kwargs.values()))


def _restricted(module: Any, backend: str) -> Any:
    """The operator with one backend alone; Triton on the CPU only under its interpreter."""
    import os

    device = "cuda" if backend == "triton" else "cpu"
    interpreted = backend == "triton" and os.environ.get("TRITON_INTERPRET") == "1"

    def build(kernels: Any) -> dict[str, Any]:
        made: dict[str, Any] = module.backends_of(kernels, vars(module), (device,))
        return {**made, "cpu": made["cuda"]} if interpreted and "cuda" in made else made

    if hasattr(operator := module.operator, "stages"):
        return operator.on(build)
    return module.Family(module.SETS, build, module.KernelOperator).operator()
