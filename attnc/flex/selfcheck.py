"""A traced text is compared with its mods, point for point, before anybody gets it.

The mods run under `torch.vmap` at a few thousand points (b, h, i, j): the ends of the captured
tensors, the neighbourhood of every number in the text, and random ones. The text's mask and score
are read off its Spec at the same points, as the expression evaluator reads them. Points where the
mod itself reads beyond a captured tensor are no points of the operator: the largest lengths without
any are looked for first.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.overrides import TorchFunctionMode

from attnc.errors import AttncError, InternalError
from attnc.expressions.evaluate import Environment, OutsideError, evaluate
from attnc.expressions.index import Index
from attnc.expressions.tree import Array, Expr, call, number, postorder, rewrite, substitute
from attnc.spec import Spec

POSITIONS = 26  # rows, and keys, of the points
LONGEST = 1 << 14  # positions looked at, where no captured tensor sets an end
RELATIVE, ABSOLUTE = 1e-4, 1e-5  # what float32 arithmetic of a mod may differ by
Mod = Callable[..., Any]


@dataclass(frozen=True)
class Points:
    """Where text and mods are compared: positions by index, each over all of the others."""

    b: NDArray[Any]
    h: NDArray[Any]
    i: NDArray[Any]
    j: NDArray[Any]

    def flat(self) -> list[torch.Tensor]:
        grids = np.meshgrid(self.b, self.h, self.i, self.j, indexing="ij")
        return [torch.from_numpy(np.ascontiguousarray(grid.reshape(-1))) for grid in grids]


def verify_text(
    spec: Spec,
    tensors: Mapping[str, torch.Tensor],
    score_mod: Mod | None,
    mask_mod: Mod | None,
    where: str,
) -> int:
    """Compares; how many points were. Raises InternalError where the text is not its mods."""
    probe = _Probe(spec, tensors, score_mod, mask_mod)
    length = _longest(probe)
    points = probe.points(length)
    expected, found = probe.of_mods(points), probe.of_text(points)
    wrong = _different(expected, found)
    if wrong.any() and score_mod is not None:  # float32 may have cancelled: once more in float64
        wrong = _different(probe.of_mods(points, torch.float64), found)
    if wrong.any():
        place = np.unravel_index(int(np.argmax(wrong)), wrong.shape)
        at = [
            int(axis[n])
            for axis, n in zip((points.b, points.h, points.i, points.j), place, strict=True)
        ]
        raise InternalError(
            f"the text of {where} differs from it at b, h, q_idx, kv_idx = {at}: "
            f"{found[place]} for {expected[place]}\n{spec.source.text}"
        )
    return int(wrong.size)


def _different(expected: NDArray[Any], found: NDArray[Any]) -> NDArray[Any]:
    with np.errstate(invalid="ignore"):
        near = np.abs(expected - found) <= ABSOLUTE + RELATIVE * np.abs(expected)
    different: NDArray[Any] = ~(near | (expected == found) | (np.isnan(expected) & np.isnan(found)))
    return different


def _longest(probe: _Probe) -> int:
    """The largest length, up to what is worth looking at, at which nothing is read beyond its
    tensor."""
    high = probe.span()
    if probe.legal(high):
        return high
    low = 0
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if probe.legal(middle) else (low, middle)
    if low == 0:
        raise AttncError(
            f"{probe.spec.name}: the mod reads beyond a captured tensor at its first position; "
            "attnc counts from 0 and knows no positions below it"
        )
    return low


class _Probe:
    """One spec and its mods, evaluated at points."""

    def __init__(
        self,
        spec: Spec,
        tensors: Mapping[str, torch.Tensor],
        score_mod: Mod | None,
        mask_mod: Mod | None,
    ) -> None:
        self.spec, self.score_mod, self.mask_mod = spec, score_mod, mask_mod
        self.device = next((tensor.device for tensor in tensors.values()), torch.device("cpu"))
        self.arrays = {n: t.detach().cpu().numpy() for n, t in _readable(tensors).items()}
        source = spec.root.sources[0]
        assert source.score is not None
        score = self._inlined(source.score)
        mask = self._inlined(source.mask) if source.mask is not None else number(True)
        self.tree = call("where", mask, score, number(-np.inf))
        sizes = {
            axis.name: int(size)
            for given in spec.inputs
            if given.name in self.arrays
            for axis, size in zip(given.array.axes, self.arrays[given.name].shape, strict=True)
        }
        self.sizes = sizes
        self.constants = {
            int(abs(float(node.attr)))
            for node in postorder(self.tree)
            if node.op == "number"
            and isinstance(node.attr, (int, float))
            and np.isfinite(node.attr)
        } | {int(abs(value)) for value in self._numbers().values()}

    def _numbers(self) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for given in self.spec.numbers:
            if given.default is not None and given.name != "scale":
                found[given.name] = evaluate(given.default, Environment(params=found)).item()
        return found

    def _inlined(self, array: Array) -> Expr:
        """A definition's expression with those that it reads put in, over b, h, i and j."""
        definition = self.spec.definition(array)
        assert definition is not None

        def change(node: Expr) -> Expr:
            if node.op != "read" or node.array.role == "input":
                return node
            inner = self.spec.definition(node.array)
            assert inner is not None
            at = dict(zip(node.array.indices, node.args, strict=True))
            return rewrite(substitute(inner.expr, at), change)

        return rewrite(definition.expr, change)

    # --- points ---------------------------------------------------------------------------------

    def span(self) -> int:
        """Positions that are worth looking at: some way beyond every number of the text."""
        near = [c for c in self.constants if c <= LONGEST // 2]
        wanted = max(64, 2 * max(near, default=0) + 8, *(self.sizes.values() or (0,)))
        return min(wanted, LONGEST)

    def legal(self, length: int) -> bool:
        """Whether neither text nor mods read beyond a tensor at any point of a length."""
        points = self.points(length)
        try:
            self.of_text(points)
            self.of_mods(points)
        except (OutsideError, IndexError):
            return False
        except RuntimeError as error:
            if "out of" in str(error) or "out-of" in str(error):
                return False
            raise
        return True

    def points(self, length: int) -> Points:
        rng = np.random.default_rng(0)
        batch, heads = min(self.sizes.get("b", 2), 3), self.sizes.get("h", 4)
        rows = min(self.sizes.get("i", length), length)
        keys = min(self.sizes.get("j", length), length)
        h = np.unique(np.concatenate([np.arange(min(heads, 3)), [heads - 1]]))
        return Points(np.arange(batch), h, self._positions(rows, rng), self._positions(keys, rng))

    def _positions(self, length: int, rng: np.random.Generator) -> NDArray[Any]:
        near = {c + d for c in self.constants for d in (-1, 0, 1)}
        ends = [p for p in sorted({0, 1, 2, length - 1} | near) if 0 <= p < length]
        chosen = rng.permutation(ends)[: POSITIONS // 2]
        more = rng.integers(0, length, POSITIONS - len(chosen))
        return np.unique(np.concatenate([[0, length - 1], chosen, more])).astype(np.int64)

    # --- values ---------------------------------------------------------------------------------

    def _case(self, points: Points) -> tuple[dict[str, NDArray[Any]], tuple[int, ...]]:
        """q and k of width 2, and their batch, heads, rows and keys."""
        shape = (
            self.sizes.get("b", int(points.b.max()) + 1),
            self.sizes.get("h", int(points.h.max()) + 1),
            self.sizes.get("i", int(points.i.max()) + 1),
            self.sizes.get("j", int(points.j.max()) + 1),
        )
        rng = np.random.default_rng(1)
        q = rng.standard_normal((*shape[:3], 2)).astype(np.float32)
        k = rng.standard_normal((*shape[:2], shape[3], 2)).astype(np.float32)
        return {"q": q, "k": k}, shape

    def of_text(self, points: Points) -> NDArray[Any]:
        """What the text says: the score, -inf where the mask hides the key."""
        arrays, shape = self._case(points)
        lengths = {}
        for given in self.spec.inputs:
            shape_of = self.arrays[given.name].shape if given.name in self.arrays else None
            names = dict(zip("bhij", shape, strict=True)) | {"hk": shape[1], "d": 2, "e": 2}
            for place, axis in enumerate(given.array.axes):
                lengths[axis] = shape_of[place] if shape_of else names[axis.name]
        at = dict(zip("bhij", (points.b, points.h, points.i, points.j), strict=True))
        indices: dict[Index, Any] = {}
        for index in self.tree.free:
            place = "bhij".index(index.name)
            indices[index] = at[index.name].reshape([-1 if n == place else 1 for n in range(4)])
        environment = Environment(
            indices=indices,
            params={**self._numbers(), "scale": 2**-0.5},
            lengths=lengths,
            arrays={**arrays, **self.arrays},
        )
        counts = [len(at[name]) for name in "bhij"]
        return np.array(np.broadcast_to(evaluate(self.tree, environment), counts), np.float64)

    def of_mods(self, points: Points, dtype: torch.dtype = torch.float32) -> NDArray[Any]:
        """What the mods say."""
        arrays, _ = self._case(points)
        b, h, i, j = (one.to(self.device) for one in points.flat())
        q, k = (torch.from_numpy(arrays[name]).to(self.device) for name in ("q", "k"))
        score = ((q[b, h, i] * k[b, h, j]).sum(-1) * 2**-0.5).to(dtype)
        before = torch.get_default_dtype()
        torch.set_default_dtype(dtype)
        try:
            with torch.no_grad():
                if self.score_mod is not None:
                    score = _at_points(self.score_mod, score, b, h, i, j).to(torch.float64)
                if self.mask_mod is not None:
                    seen = _at_points(self.mask_mod, b, h, i, j)
                    score = torch.where(seen.bool(), score, -torch.inf)
        finally:
            torch.set_default_dtype(before)
        counts = [len(one) for one in (points.b, points.h, points.i, points.j)]
        return np.asarray(score.double().reshape(counts).cpu().numpy())


def _readable(tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """16-bit floats as float32: NumPy has no bfloat16."""
    return {
        n: t.float() if t.is_floating_point() and t.itemsize < 4 else t for n, t in tensors.items()
    }


class _Gather(TorchFunctionMode):
    """`table[i]` with a batch of scalar tensors as one gather: what vmap asks for."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.Tensor.__getitem__:
            items = args[1] if isinstance(args[1], tuple) else (args[1],)
            traced = any(isinstance(item, torch.Tensor) for item in items)
            if traced and all(isinstance(item, (torch.Tensor, int)) for item in items):
                at = [torch.as_tensor(item, device=args[0].device) for item in items]
                return torch.ops.aten.index(args[0], at)
        return func(*args, **(kwargs or {}))


def _at_points(mod: Mod, *at: torch.Tensor) -> torch.Tensor:
    """A mod at many points; one after another where it cannot be mapped."""
    with _Gather():
        try:
            made = torch.vmap(lambda *point: torch.as_tensor(mod(*point)))(*at)
        except (RuntimeError, TypeError, ValueError) as error:
            if "out of" in str(error):
                raise
            made = torch.stack([torch.as_tensor(mod(*point)) for point in zip(*at, strict=True)])
    return made.reshape(len(at[0]), -1)[:, 0]
