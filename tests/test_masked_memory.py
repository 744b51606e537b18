"""Keys and values that a mask hides may be uninitialised memory: NaN there reaches no row, and no
gradient, that does not see it. On the CPU that is so for every key; in Triton's kernels for keys
that no row sees, whatever else their tile holds."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from typing import Any

os.environ["TRITON_INTERPRET"] = "1"  # before triton is imported anywhere

import pytest
import torch
import triton_interpreter  # noqa: F401
from test_triton_gallery import forced

import attnc

Tensors = list[torch.Tensor]
ROWS = 20
AT = torch.arange(ROWS)
TEXT = """
attention hidden(q, k, v):
    input {inputs}
    mask: {mask}
    score: dot(q[i], k[j]) * scale
    normalize: softmax(j: score)
"""


@dataclass(frozen=True)
class Mask:
    """A mask, what it reads, the keys that no row sees and the rows that see nothing."""

    inputs: str
    mask: str
    given: dict[str, Any]
    keys: torch.Tensor
    rows: torch.Tensor = field(default_factory=lambda: AT < 0)

    @property
    def text(self) -> str:
        return TEXT.format(inputs=self.inputs, mask=self.mask)

    @property
    def tensors(self) -> dict[str, torch.Tensor]:
        return {name: torch.as_tensor(value)[None] for name, value in self.given.items()}


BEYOND, HOLES = AT >= 13, (AT >= 13) | (AT % 5 == 2)
MASKS = {
    "length": Mask("length: int[b]", "j <= i and j < length", {"length": 13}, BEYOND),
    "last": Mask("last: int[b]", "last >= j", {"last": 12}, BEYOND),
    "far": Mask("last: int[b], length: int[b]", "j <= last and j < length",
                {"last": 2**63 - 1, "length": 13}, BEYOND),
    "heads": Mask("length: int[b, h]", "j < length", {"length": [13, 6]}, BEYOND),
    "first": Mask("first: int[b]", "j <= i and j >= first", {"first": 7}, AT < 7),
    "valid": Mask("valid: bool[b, j]", "valid[j]", {"valid": ~HOLES}, HOLES),
    "kind": Mask("kind: int[b, j]", "j <= i and kind[j] == 0", {"kind": HOLES.long()}, HOLES),
    "rows": Mask("length: int[b], rows: int[b]", "j < length and i < rows",
                 {"length": 13, "rows": 11}, BEYOND, AT >= 11),
}  # fmt: skip
SMALL = {"BLOCK_HELD": 8, "BLOCK_WALKED": 8}
FORCED: dict[str, dict[str, Any]] = {
    "descriptors": {"USE_DESCRIPTORS": True},
    "shares": {"splits": 2},
    "packed heads": {"PACKED": True},
    "a list of tiles": {"TILE_LIST": True},
}


def tiled(mask: str, form: str = "", **constants: Any) -> Any:
    """The operator in Triton's kernels, in tiles of which the mask hides parts; under a name of its
    own, since what is forced in a family of kernels stays forced."""
    text = MASKS[mask].text.replace("hidden", f"hidden_{mask}_{form.replace(' ', '_')}")
    return forced(attnc.compile(text, backend="triton"), {**SMALL, **constants})


def drawn() -> Tensors:
    """Queries, keys, values: two heads that share their keys."""
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(1, heads, ROWS, 8, generator=generator) for heads in (2, 1, 1)]


def poisoned(clean: Tensors, mask: Mask) -> Tensors:
    """The same, with what is not finite where nothing is seen."""
    found = [x.clone() for x in clean]
    for x, hidden in zip(found, (mask.rows, mask.keys, mask.keys), strict=True):
        for place, row in enumerate(hidden.nonzero().flatten()):
            x[:, :, row] = (float("nan"), float("inf"), -float("inf"))[place % 3]
    return found


def derivatives(op: Any, tensors: Tensors, given: dict[str, torch.Tensor]) -> Tensors:
    """The result, its gradients, and its tangent."""
    leaves = [x.clone().requires_grad_() for x in tensors]
    out = op(*leaves, **given)
    gradients = torch.autograd.grad(out.square().sum(), leaves)
    along = [torch.ones_like(x) for x in tensors]
    moved = torch.func.jvp(lambda *x: op(*x, **given), tuple(tensors), tuple(along))[1]
    return [out.detach(), *gradients, moved]


def check(op: Any, mask: Mask) -> None:
    """What is not finite where nothing is seen changes nothing; its own gradient is 0."""
    clean = drawn()
    found, wanted = (
        derivatives(op, tensors, mask.tensors) for tensors in (poisoned(clean, mask), clean)
    )
    torch.testing.assert_close(found, wanted)
    for gradient, hidden in zip(found[1:4], (mask.rows, mask.keys, mask.keys), strict=True):
        assert not gradient[:, :, hidden].any()


@pytest.mark.parametrize("mask", MASKS)
def test_what_no_row_sees(mask: str) -> None:
    check(tiled(mask), MASKS[mask])


@pytest.mark.parametrize("mask", ["length", "valid"])
@pytest.mark.parametrize("form", FORCED)
def test_kernels_of_every_form(mask: str, form: str) -> None:
    check(tiled(mask, form, **FORCED[form]), MASKS[mask])


def test_keys_before_the_first_position() -> None:
    """An end is a position: the keys' first one may be any."""
    op, clean = tiled("last", "moved", USE_DESCRIPTORS=True), drawn()
    for first, last in ((-30, -18), (100, 112), (5, -(2**63)), (5, 2**63 - 1)):
        hidden = AT + first > last
        mask = Mask("", "", {}, hidden)
        given = {"last": torch.tensor([last])}
        outs = [op(*x, **given, key_offset=first) for x in (poisoned(clean, mask), clean)]
        torch.testing.assert_close(*outs)
        assert bool(outs[0].any()) == (not hidden.all())


def test_what_some_rows_see(monkeypatch: pytest.MonkeyPatch) -> None:
    """On the CPU it reaches these rows alone."""
    monkeypatch.setenv("ATTNC_CXXFLAGS", "-O1")
    mask, clean = MASKS["length"], drawn()
    op = attnc.compile(mask.text, backend="cpu")
    check(op, mask)
    tensors = poisoned(clean, mask)
    tensors[2][:, :, 9, 3] = float("nan")  # rows 9 and later see it
    found, wanted = (op(*x, **mask.tensors) for x in (tensors, clean))
    torch.testing.assert_close(found[:, :, :9], wanted[:, :, :9])
    assert found[:, :, 9:].isnan().any(-1).all()


def test_what_is_added_to_a_table(monkeypatch: pytest.MonkeyPatch) -> None:
    """The gradient of `r` sums keys: those that are hidden stay out of it."""
    monkeypatch.setenv("ATTNC_CXXFLAGS", "-O1")
    mask, clean = MASKS["length"], drawn()
    text = mask.text.replace(" * scale", " * scale + dot(k[j], r[i - j])").replace(
        "    input", "    axis n in -20 .. 20\n    input r: real[n, d],"
    )
    op = attnc.compile(text, backend="cpu")
    found = []
    for tensors in (poisoned(clean, mask), clean):
        r = torch.linspace(-1, 1, 320).view(40, 8).requires_grad_()
        found.append(torch.autograd.grad(op(*tensors, r=r, **mask.tensors).sum(), r)[0])
    torch.testing.assert_close(*found)
    assert found[1].any()
