"""Runs the text of the eager form, with the support files around it as in an emitted module."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cache
from typing import Any

import numpy as np
import torch
from attnc.backends.eager import SUPPORT, argument_names, emit_eager

from attnc.emission.bundle import bundle_runtime
from attnc.spec import Spec


@cache
def support() -> dict[str, Any]:
    text = "from __future__ import annotations\n" + bundle_runtime(SUPPORT)
    names: dict[str, Any] = {"__name__": "eager_support"}
    exec(compile(text, "<support>", "exec"), names)
    return names


def load(spec: Spec) -> Callable[..., dict[str, torch.Tensor]]:
    """The function `eager` of a spec; tensors and numbers go in under the operator's names."""
    names = dict(support())
    exec(compile(emit_eager(spec), f"<eager {spec.name}>", "exec"), names)
    function, renamed = names["eager"], argument_names(spec)
    return lambda **given: function(**{renamed.get(name, name): x for name, x in given.items()})


def to_torch(
    tensors: Mapping[str, np.ndarray], dtype: torch.dtype = torch.float64, grad: bool = False
) -> dict[str, torch.Tensor]:
    """Arrays as tensors, reals in `dtype`."""
    found = {name: torch.from_numpy(np.array(array)) for name, array in tensors.items()}
    found = {n: x.to(dtype) if x.is_floating_point() else x for n, x in found.items()}
    if not grad:
        return found
    return {n: x.requires_grad_(x.is_floating_point() or x.is_complex()) for n, x in found.items()}
