"""One low-level torch operator for each kernel set, `attnc::NAME_DIGEST`, so that torch.compile,
torch.export and autograd see an ordinary operator.

An operator of torch.library.custom_op with registered autograd returns zero tangents silently, and
an autograd.Function with a jvp is refused by Dynamo; hence the Library operator whose Autograd key
holds a Function (see autograd), which is also entered directly whenever a dual or functorch level
is live.
"""

from __future__ import annotations

from collections.abc import Iterable
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
    found = getattr(torch.ops.attnc, qualified).default
    return found if len(operator.signature.outputs) != 1 else as_tuple(found)


def as_tuple(found: Any) -> Any:
    """A torch operator of one result as one that gives a tuple, as those of several do."""

    def run(*flat: Any) -> tuple[torch.Tensor, ...]:
        return (found(*flat),)

    return run


def _implement(operator: Any, qualified: str, library: Any) -> None:
    signature = operator.signature
    one = len(signature.outputs) == 1  # torch has no tuples of one

    def compute(*flat: Any) -> Any:
        call = call_of(signature, flat)
        check_reads(call)
        outputs = operator.run(call, names_of(signature, flat[-1]))
        return given(absent(call.device) if made is None else made for made in outputs)

    def fake(*flat: Any) -> Any:
        call, wanted = call_of(signature, flat), names_of(signature, flat[-1])
        return given(
            call.new_output(output) if output.name in wanted else absent(call.device)
            for output in signature.outputs
        )

    def dispatched(*flat: Any) -> Any:
        return given(operator.derivatives.dispatched(*flat))

    def given(outputs: Iterable[torch.Tensor]) -> Any:
        made = tuple(outputs)
        return made[0] if one else made

    for device in ("CPU", "CUDA"):
        library.impl(qualified, compute, device)
    torch.library.register_fake(f"attnc::{qualified}", fake, lib=library)
    library.impl(qualified, dispatched, "Autograd")
