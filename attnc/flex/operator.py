"""The operator that `from_flex` gives: an operator whose captured tensors are bound."""

from __future__ import annotations

from collections.abc import Mapping
from copy import deepcopy
from typing import Any

import torch

from attnc.errors import ArgumentMissing
from attnc.front import read_spec
from attnc.operator import Operator
from attnc.source import Source
from attnc.spec import Spec


class FlexOperator(Operator):
    """An operator traced from FlexAttention's mods. Call it as any other: `op(q, k, v)`.

    text       what was traced, in the language of attnc
    captured   the tensors that the mods captured, by their name in the text. They are defaults of
               the call: `op(q, k, v, docs=others)` gives others
    """

    def __init__(
        self,
        spec: Spec,
        backend: str,
        captured: Mapping[str, torch.Tensor],
        axes: Mapping[str, tuple[str, ...]],
    ) -> None:
        self.text = spec.source.text
        self.captured = dict(captured)
        self._axes = dict(axes)
        super().__init__(spec, backend)

    def __deepcopy__(self, memo: dict[int, Any]) -> FlexOperator:
        found = object.__new__(FlexOperator)  # the same kernels
        vars(found).update(vars(self))
        found.captured = deepcopy(self.captured, memo)  # as its model's parameters are
        return found

    def __reduce__(self) -> tuple[Any, ...]:
        source, name = self.spec.source, self.spec.name
        return _restored, (source, name, self.backend, self.captured, self._axes)

    def __call__(self, /, *args: Any, **kwargs: Any) -> Any:
        return super().__call__(*args, **self._with_captured(args, kwargs))

    def partial(self, /, *args: Any, **kwargs: Any) -> Any:
        return super().partial(*args, **self._with_captured(args, kwargs))

    def reference(self, /, *args: Any, **kwargs: Any) -> Any:
        return super().reference(*args, **self._with_captured(args, kwargs))

    def _with_captured(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
        """The keywords with what was captured; of tensors as long as the longest sequence, what
        belongs to these rows and keys."""
        if all(name in kwargs for name in self.captured):
            return kwargs
        given = dict(zip(("q", "k"), args[:2], strict=False))
        q, k = (kwargs.get(name, given.get(name)) for name in ("q", "k"))
        if q is None or k is None:
            return {**self.captured, **kwargs}
        bound = {
            name: self._narrowed(name, tensor, q, k, kwargs.get("offset", 0))
            for name, tensor in self.captured.items()
            if name not in kwargs
        }
        return {**bound, **kwargs}

    def _narrowed(self, name: str, tensor: torch.Tensor, q: Any, k: Any, offset: Any) -> Any:
        for place, axis in enumerate(self._axes[name]):
            if axis == "j" and tensor.shape[place] > k.shape[-2]:
                tensor = tensor.narrow(place, 0, k.shape[-2])
            if axis == "i" and (
                (not isinstance(offset, int) or offset != 0) or tensor.shape[place] > q.shape[-2]
            ):
                if not isinstance(offset, int):
                    what = "a tensor, since the rows begin at another offset in each batch entry"
                    raise ArgumentMissing(self.spec.name, name, what)
                last = min(offset + q.shape[-2], tensor.shape[place])
                tensor = tensor.narrow(place, min(offset, last), max(last - offset, 0))
        return tensor if isinstance(q, torch.Tensor) else tensor.detach().cpu().numpy()


def _restored(source: Source, name: str, *rest: Any) -> FlexOperator:
    """The operator that was pickled, compiled from its text."""
    return FlexOperator(read_spec(source, name), *rest)
