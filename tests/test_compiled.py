"""The gallery's pipelines under torch.compile, their formulas decomposed as inductor has them.

The code that inductor writes itself for an accumulating store adds beyond its end on the CPU (see
attnc/runtime/eager_rows), so none may be left to it, in results nor in gradients.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from functorch.compile import make_boxed_func
from gallery_cases import calls, load, of_one_width, setting_of, spec_paths

from attnc.operator import Operator
from attnc.spec import Spec
from attnc.verification import to_torch

ADDING = ("index_add", "scatter_add", "embedding_dense_backward", "index_put", "scatter_reduce")
PATHS = [path for path in spec_paths() if "\npipeline " in f"\n{path.read_text()}"]


def test_one_pipeline(pytestconfig: pytest.Config) -> None:
    """As the run's seed chooses; all of them under -m torture."""
    check(random.Random(pytestconfig.option.seed).choice(PATHS))


@pytest.mark.torture
@pytest.mark.parametrize("path", PATHS, ids=[path.stem for path in PATHS])
def test_pipeline(path: Path) -> None:
    check(path)


def test_a_store_that_adds_is_noticed() -> None:
    stores: list[str] = []
    place = torch.tensor([1, 0, 1])

    def rows(x: torch.Tensor) -> Any:
        return x.new_zeros(2, 4).index_add(0, place, x), x.unfold(1, 2, 1).amax(-1)

    given = {"x": torch.rand(3, 4)}
    list(everything(torch.compile(lambda t: rows(**t), backend=decomposed(stores)), given))
    assert len(stores) == 2


def check(path: Path) -> None:
    torch._dynamo.reset()
    spec = load(path)
    op, given = Operator(spec, "cpu"), first_call(spec, path.stem)
    tensors, numbers = given

    def call(tensors: dict[str, torch.Tensor]) -> Any:
        return op(**tensors, **numbers)

    stores: list[str] = []
    traced = torch.compile(call, fullgraph=True, backend=decomposed(stores))
    for found, expected in zip(everything(traced, tensors), everything(call, tensors), strict=True):
        torch.testing.assert_close(found, expected, equal_nan=True)
    assert not stores


def first_call(spec: Spec, name: str) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    case, _ = next(iter(calls(spec, of_one_width(setting_of(name)), seed=11)))
    return to_torch(case, spec, torch.float64), {**case.numbers, **case.extras}


def everything(run: Callable[..., Any], tensors: dict[str, torch.Tensor]) -> Iterator[Any]:
    """Results, and the gradient of each real input (None where there is none)."""
    given = {
        name: x.clone().requires_grad_(x.is_floating_point() or x.is_complex())
        for name, x in tensors.items()
    }
    made = run(given)
    results = made if isinstance(made, tuple) else (made,)
    smooth = [x for x in results if x.requires_grad]
    if smooth:
        sum(x.abs().square().sum() for x in smooth).backward()  # type: ignore[union-attr]
    yield from (x.detach() for x in results)
    yield from (x.grad for x in given.values())


def decomposed(stores: list[str]) -> Any:
    """A backend that runs what inductor would write, and notes the stores that add up."""
    from torch._dynamo.backends.common import aot_autograd
    from torch._inductor.decomposition import select_decomp_table

    def compiled(graph: torch.fx.GraphModule, _: Any) -> Any:
        stores.extend(str(node) for node in graph.graph.nodes if adds(node))
        return make_boxed_func(graph.forward)

    return aot_autograd(fw_compiler=compiled, decompositions=select_decomp_table())


def adds(node: torch.fx.Node) -> bool:
    name = str(node.target)
    if not any(word in name for word in ADDING):
        return False
    if "index_put" in name:
        return len(node.args) > 3 and bool(node.args[3])
    return "scatter_reduce" not in name or node.args[4] in ("sum", "prod", "mean")
