"""`attnc.Operator`: a compiled operator with its stages, its oracle and its explanation."""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING, Any

from attnc.errors import UnsupportedError
from attnc.spec import Spec

if TYPE_CHECKING:
    from attnc.stages import Stages


class Operator:
    """A compiled operator. Call it as its module's function; torch in, torch out, NumPy in, NumPy
    out.

    op(q, k, v, window=512)                     the result
    op(q, k, v, window=512, emit=("lse",))      (result, lse)
    op.reference(q, k, v, window=512)           the same from the float64 oracle, as NumPy arrays
    op.explain()                                what was derived, which kernels run
    op.source                                   the text of the module that attnc compile writes
    """

    def __init__(self, spec: Spec, backend: str = "auto") -> None:
        self.spec = spec
        self.backend = backend
        self.__name__ = spec.name
        self._run = self._choose()

    def __call__(self, /, *args: Any, **kwargs: Any) -> Any:
        return self._run(*args, **kwargs)

    def __repr__(self) -> str:
        names = ", ".join(given.name for given in self.spec.inputs)
        return f"<attnc.Operator {self.spec.name}({names}), backend {self.backend}>"

    @cached_property
    def stages(self) -> Stages:
        """Spec, Graph and Schedule."""
        from attnc.compiler import lower

        return lower(self.spec)

    @cached_property
    def source(self) -> str:
        """The text of the emitted module."""
        from attnc.compiler import emit_module

        return emit_module(self.spec, self.stages)

    @cached_property
    def module(self) -> Any:
        """The emitted module, imported from the cache."""
        from attnc.compiler import load_module

        return load_module(self.source, self.spec.name)

    def reference(self, /, *args: Any, **kwargs: Any) -> Any:
        """The oracle's answer to a call: float64 NumPy arrays; with `emit`, a tuple."""
        from attnc.reference import run_reference

        return run_reference(self.spec, args, kwargs)

    def explain(self) -> str:
        """What was derived, which kernel runs where, and what it costs."""
        from attnc.explanation import explain

        return explain(self.spec, self.stages, self.backend)

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
        return _restricted(self.module, self.backend)


def _restricted(module: Any, backend: str) -> Any:
    """The operator with one backend alone; Triton on the CPU only under its interpreter."""
    import os

    device = "cuda" if backend == "triton" else "cpu"
    chosen = {device: module.BACKENDS[device]}
    if backend == "triton" and os.environ.get("TRITON_INTERPRET") == "1":
        chosen["cpu"] = chosen["cuda"]
    if not chosen:
        raise UnsupportedError("this operator", backend, ("eager", "numpy"))
    return module.KernelOperator(module.SIGNATURE, chosen, backend + module.DIGEST)
