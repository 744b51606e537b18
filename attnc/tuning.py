"""Tuning a compiled operator: the file of its measured tiles, and how to fill it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from attnc.cases import Shape, draw_case
from attnc.errors import DeviceError
from attnc.spec import Spec


def tuned_path(module: Any) -> Path:
    """The file of a module's measured tiles: beside the module."""
    return Path(module.__file__).with_suffix(".tuned.json")


def tune(spec: Spec, shape: Shape, dtype: str) -> dict[str, Any]:
    """Measures the tiles of an operator's Triton kernels at a shape, keeps the fastest, and gives
    them back by kernel. DeviceError where no GPU runs them."""
    import torch

    from attnc.operator import Operator
    from attnc.verification import to_torch

    if not torch.cuda.is_available():
        raise DeviceError(
            spec.name, "the device", "a GPU, whose kernels have tiles to tune", "none"
        )
    module = Operator(spec).module
    case = draw_case(spec, shape, seed=0)
    tensors = to_torch(case, spec, getattr(torch, dtype), "cuda")
    call = module.check_call(module.SIGNATURE, tensors, case.numbers, case.extras)
    tuner = module.TritonTuner(module.BACKENDS["cuda"], tuned_path(module), module.time_on_device)
    best: dict[str, Any] = tuner.tune(call, frozenset((module.SIGNATURE.outputs[0].name,)))
    return best
