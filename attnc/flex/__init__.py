"""From FlexAttention: Python mods become a text of the language, and an operator.

op = attnc.from_flex(score_mod=alibi, mask_mod=causal)     # the mods, as flex_attention takes them
print(op.text)                                             # the same as equations
out = op(q, k, v)                                          # trains, on CPU too
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from attnc.errors import AttncError
from attnc.flex.failures import TraceError

__all__ = ["TraceError", "from_flex"]


def from_flex(
    score_mod: Callable[..., Any] | None = None,
    mask_mod: Callable[..., Any] | None = None,
    *,
    name: str | None = None,
    functions: Mapping[str, Callable[..., Any]] | None = None,
    backend: str = "auto",
) -> Any:
    """The operator that `flex_attention` would run with these mods, and its text.

    score_mod  (score, b, h, q_idx, kv_idx) -> score: what a pair is worth after the scaled product
    mask_mod   (b, h, q_idx, kv_idx) -> bool: which keys a row sees
    name       of the operator; by default that of the score_mod, else of the mask_mod
    functions  what custom operators of PyTorch compute, by name: {"approx::tanh": torch.tanh}
    backend    as for `attnc.compile`

    The mods run once, on symbols. Python numbers that they capture become params with their value
    as default, tensors become inputs bound to the operator. Before it is returned, the text is
    compared with the mods at some thousand points.

    Gives a FlexOperator: `.text`, `.captured`, and all that an Operator has. Raises TraceError,
    with the line, for what has no equations: control flow on traced values, random numbers,
    functions that the language lacks.
    """
    from attnc.flex.operator import FlexOperator
    from attnc.flex.selfcheck import verify_text
    from attnc.flex.text import print_text
    from attnc.flex.trace import Tracer
    from attnc.formatter import format_source
    from attnc.front import read_spec
    from attnc.source import Source

    if score_mod is None and mask_mod is None:
        raise AttncError("from_flex: give a score_mod, a mask_mod or both")
    tracer = Tracer(functions)
    at = [tracer.index(index) for index in "bhij"]
    mask = tracer.run(mask_mod, "mask_mod", at) if mask_mod is not None else None
    score = (
        tracer.run(score_mod, "score_mod", [tracer.score(), *at]) if score_mod is not None else None
    )
    titles = {"score_mod": title(score_mod), "mask_mod": title(mask_mod)}
    note = ", ".join(f"{what} {word}" for what, word in titles.items() if word)
    wanted = name or titles["score_mod"] or titles["mask_mod"]
    printed = print_text(tracer, wanted, score, mask, f"from FlexAttention: {note}")
    source = Source(format_source(printed.text), "<from_flex>")
    spec = read_spec(source)
    tensors = {given: tracer.tensors[table] for given, table in printed.inputs.items()}
    verify_text(spec, tensors, score_mod, mask_mod, note)
    return FlexOperator(spec, backend, tensors, printed.axes)


def title(mod: Callable[..., Any] | None) -> str:
    """What a mod is called; nothing for none."""
    if mod is None:
        return ""
    called = str(getattr(mod, "__name__", type(mod).__name__))
    return "mod" if called == "<lambda>" else called
