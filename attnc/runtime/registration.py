"""One low-level torch operator for each kernel set, `attnc::NAME_DIGEST`, so that torch.compile,
torch.export and autograd see an ordinary operator.

An operator of torch.library.custom_op with registered autograd returns zero tangents silently, and
an autograd.Function with a jvp is refused by Dynamo; hence the Library operator whose Autograd key
holds a Function (see autograd), which is also entered directly whenever a dual or functorch level
is live.
"""

from __future__ import annotations

from typing import Any

import torch

from attnc.runtime.arguments import absent, call_of, names_of, schema_of
from attnc.runtime.reads import check_reads

library_of: Any = torch.library.Library  # a part of torch without type annotations
# The libraries of this process by operator: torch forgets an operator with its library.
LIBRARIES: dict[str, Any] = {}


def register(operator: Any, qualified: str) -> Any:
    """Defines the torch operator of a KernelOperator once a process, and gives it back."""
    if qualified not in LIBRARIES and not hasattr(torch.ops.attnc, qualified):
        library = library_of("attnc", "FRAGMENT")
        library.define(qualified + schema_of(operator.signature))
        _implement(operator, qualified, library)
        LIBRARIES[qualified] = library
    return getattr(torch.ops.attnc, qualified).default


def _implement(operator: Any, qualified: str, library: Any) -> None:
    signature = operator.signature

    def compute(*flat: Any) -> tuple[torch.Tensor, ...]:
        call = call_of(signature, flat)
        check_reads(call)
        outputs = operator.run(call, names_of(signature, flat[-1]))
        return tuple(absent(call.device) if one is None else one for one in outputs)

    def fake(*flat: Any) -> tuple[torch.Tensor, ...]:
        call, wanted = call_of(signature, flat), names_of(signature, flat[-1])
        return tuple(
            call.new_output(output) if output.name in wanted else absent(call.device)
            for output in signature.outputs
        )

    for device in ("CPU", "CUDA"):
        library.impl(qualified, compute, device)
    torch.library.register_fake(f"attnc::{qualified}", fake, lib=library)
    library.impl(qualified, operator.derivatives.dispatched, "Autograd")
