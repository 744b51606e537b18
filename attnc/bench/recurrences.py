"""Recurrences against the chunkwise form that a user would write in PyTorch, eager and compiled.

The peers are vectorised over batch, heads and chunks, with one loop over chunks that carries the
state: sums of log decays, a masked product within a chunk, and for the delta rule a triangular
solve (the equations of Yang et al. 2024, "Gated Linear Attention" and "Gated Delta Networks").
Every result is compared with the float64 oracle, every gradient with float64 autograd of the peer,
before anything is timed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import torch

from attnc.bench.measure import Run, Timing, interleave
from attnc.errors import AttncError

Peer = Callable[..., torch.Tensor]
HEADS, ROWS, WIDTH = 8, 4096, 64
CHECKED = 256  # rows that are compared with the oracle
LIMIT = 1e-5  # relative, of results and gradients in float32
BARS = {"eager": 3.0, "compile": 2.0}

HEAD = """attention bench(q, k, v) for t:
    input k: real[b, h, t, d], v: real[b, h, t, e], {gates}
    state S: real[d, e] = 0
    update:
{update}
    read: q[t] @ S
"""
DECAY = "        S = exp(g[t]) * S + outer(k[t], v[t])"
DELTA = """        S = exp(g[t]) * S
        S = S + beta[t] * outer(k[t], v[t] - k[t] @ S)"""


def scalar_decay(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, g: torch.Tensor, size: int = 64
) -> torch.Tensor:
    """A decay for each head and row: g [b, h, t] is its logarithm."""
    q, k, v, g = (_chunks(x, size) for x in (q, k, v, g))
    g = g.cumsum(-1)
    end = g[..., -1:]
    inside = (q @ k.mT * _gaps(g)) @ v
    added = (k * (end - g).exp()[..., None]).mT @ v
    before = _scanned(added, end.exp()[..., None])
    return (inside + (q * g.exp()[..., None]) @ before).flatten(2, 3)


def channel_decay(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, g: torch.Tensor, size: int = 32
) -> torch.Tensor:
    """A decay for each key channel: g [b, h, t, d]. Products within a chunk are anchored in its
    middle: the fast form, and right while the decay of half a chunk is no less than 1e-30."""
    q, k, v, g = (_chunks(x, size) for x in (q, k, v, g))
    g = g.cumsum(-2)
    end, middle = g[..., -1:, :], g[..., size // 2 - 1 : size // 2, :]
    weight = ((q * (g - middle).exp()) @ (k * (middle - g).exp()).mT).tril()
    added = (k * (end - g).exp()).mT @ v
    before = _scanned(added, end.exp().mT)
    return (weight @ v + (q * g.exp()) @ before).flatten(2, 3)


def gated_delta(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    g: torch.Tensor,
    beta: torch.Tensor,
    size: int = 64,
    inside: Callable[..., tuple[torch.Tensor, ...]] | None = None,
    step: Callable[..., tuple[torch.Tensor, torch.Tensor]] | None = None,
) -> torch.Tensor:
    """A decay and a correction: within a chunk the corrections solve a triangular system.
    `inside`, `step`: its two parts, compiled."""
    parts = (inside or delta_inside)(*(_chunks(x, size) for x in (q, k, v, g, beta)))
    state = torch.zeros_like(parts[1][:, :, 0, :1].mT * parts[0][:, :, 0, :1])
    rows = []
    for chunk in zip(*(x.unbind(2) for x in parts), strict=True):
        row, state = (step or delta_step)(state, *chunk)
        rows.append(row)
    return torch.stack(rows, 2).flatten(2, 3)


def delta_inside(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, g: torch.Tensor, beta: torch.Tensor
) -> tuple[torch.Tensor, ...]:
    """What chunks do by themselves: all but the state."""
    g = g.cumsum(-1)
    end, gaps = g[..., -1:], _gaps(g)
    matrix = (beta[..., None] * (k @ k.mT) * gaps).tril(-1)
    right = torch.cat([beta[..., None] * v, (beta * g.exp())[..., None] * k], -1)
    eye = torch.eye(k.shape[-2], dtype=q.dtype)
    solved = torch.linalg.solve_triangular(eye + matrix, right, upper=False, unitriangular=True)
    values, keys = solved.split([v.shape[-1], k.shape[-1]], -1)
    weight, read = (q @ k.mT) * gaps, q * g.exp()[..., None]
    left = (k * (end - g).exp()[..., None]).mT
    return values, keys, weight, read, left, end.exp()


def delta_step(
    state: torch.Tensor,
    values: torch.Tensor,
    keys: torch.Tensor,
    weight: torch.Tensor,
    read: torch.Tensor,
    left: torch.Tensor,
    decay: torch.Tensor,
) -> tuple[torch.Tensor, torch.Tensor]:
    """A chunk with the state before it: its rows, and the state after it."""
    new = values - keys @ state
    return read @ state + weight @ new, state * decay[..., None] + left @ new


def _chunks(x: torch.Tensor, size: int) -> torch.Tensor:
    """Rows in chunks: [b, h, chunk, row, ...]."""
    return x.reshape(*x.shape[:2], -1, size, *x.shape[3:])


def _gaps(g: torch.Tensor) -> torch.Tensor:
    """exp of the log decay from each row of a chunk to each later one, 0 above the diagonal."""
    seen = torch.ones(g.shape[-1], g.shape[-1], dtype=torch.bool).tril()
    return (g[..., :, None] - g[..., None, :]).masked_fill(~seen, -torch.inf).exp()


def _scanned(added: torch.Tensor, decay: torch.Tensor) -> torch.Tensor:
    """The state before each chunk."""
    state, found = torch.zeros_like(added[:, :, 0]), []
    for n in range(added.shape[2]):
        found.append(state)
        state = state * decay[:, :, n] + added[:, :, n]
    return torch.stack(found, 2)


def by_parts(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, g: torch.Tensor, beta: torch.Tensor
) -> torch.Tensor:
    """gated_delta, its two parts compiled and the loop over chunks left to Python: the whole, whose
    loop the compiler unrolls, takes it many minutes."""
    return gated_delta(q, k, v, g, beta, inside=_compiled(delta_inside), step=_compiled(delta_step))


@cache
def _compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    made: Callable[..., Any] = torch.compile(function, dynamic=False)
    return made


@dataclass(frozen=True)
class ScanCase:
    """An operator and its peer; `gates`: its further inputs, and whether each is over channels.
    `compiled`: the peer compiled by parts, None: as it is."""

    name: str
    update: str
    peer: Peer
    gates: tuple[tuple[str, bool], ...]
    compiled: Peer | None = None

    @property
    def text(self) -> str:
        plain = [name for name, wide in self.gates if not wide]
        wide = [name for name, wide in self.gates if wide]
        parts = [f"{', '.join(plain)}: real[b, h, t]"] if plain else []
        parts += [f"{', '.join(wide)}: real[b, h, t, d]"] if wide else []
        return HEAD.format(gates=", ".join(parts), update=self.update)

    def tensors(self, rows: int) -> dict[str, torch.Tensor]:
        """Unit keys, gates whose decays are about 0.9 a row."""
        draw = torch.Generator().manual_seed(0)
        shape = (1, HEADS, rows, WIDTH)
        q, k, v = (torch.randn(shape, generator=draw) for _ in range(3))
        found = {"q": q * WIDTH**-0.5, "k": torch.nn.functional.normalize(k, dim=-1), "v": v}
        for name, wide in self.gates:
            gate = torch.randn(shape if wide else shape[:-1], generator=draw)
            decay = torch.nn.functional.logsigmoid(gate + 2.0)
            found[name] = decay if name == "g" else torch.sigmoid(gate)
        return found


CASES = (
    ScanCase("scalar decay", DECAY, scalar_decay, (("g", False),)),
    ScanCase("channel decay", DECAY, channel_decay, (("g", True),)),
    ScanCase("gated delta", DELTA, gated_delta, (("g", False), ("beta", False)), by_parts),
)


@dataclass(frozen=True)
class ScanRow:
    """One case, forward or forward and backward: attnc's time and each peer's over it."""

    case: ScanCase
    what: str
    attnc: Timing
    ratios: dict[str, float]
    errors: tuple[float, float]
    bars: dict[str, float] = field(default_factory=lambda: dict(BARS))


def run_scans(
    compiled: bool, runs: int = 3, seconds: float = 4.0, only: tuple[str, ...] = ()
) -> Iterator[ScanRow]:
    """Two rows for each case. `compiled`: torch.compile of the peer too, which takes
    minutes."""
    import attnc

    for case in CASES:
        if not only or any(text in case.name for text in only):
            operator = attnc.compile(case.text, name="bench", backend="cpu")
            yield from run_case(case, operator, compiled, runs, seconds)


def run_case(
    case: ScanCase, operator: Any, compiled: bool, runs: int, seconds: float
) -> Iterator[ScanRow]:
    """The rows of one case."""
    errors = checked(case, operator)
    tensors = case.tensors(ROWS)
    leaves = {name: x.clone().requires_grad_() for name, x in tensors.items()}
    given = torch.randn_like(tensors["v"])
    peers = {"eager": case.peer}
    if compiled:
        peers["compile"] = case.compiled or torch.compile(case.peer, dynamic=False)
    forms: dict[str, Callable[..., torch.Tensor]] = {
        "attnc": lambda *x: called(operator, dict(zip(tensors, x, strict=True))),
        **peers,
    }

    def forward(run: Callable[..., torch.Tensor]) -> Run:
        return lambda: run(*tensors.values())

    def trained(run: Callable[..., torch.Tensor]) -> Run:
        every = list(leaves.values())
        return lambda: torch.autograd.grad(run(*every), every, given)

    for what, made in (("forward", forward), ("forward + backward", trained)):
        calls = {name: made(run) for name, run in forms.items()}
        yield _timed(case, what, calls, errors, runs, seconds)


def called(operator: Any, tensors: dict[str, torch.Tensor], **options: Any) -> Any:
    """The operator on a case's inputs: the first three by place."""
    names = list(tensors)
    rest = {name: tensors[name] for name in names[3:]}
    return operator(*(tensors[name] for name in names[:3]), **rest, **options)


def _timed(
    case: ScanCase,
    what: str,
    forms: dict[str, Run],
    errors: tuple[float, float],
    runs: int,
    seconds: float,
) -> ScanRow:
    """Medians of interleaved calls; the ratios are the median over the runs."""
    found: dict[str, list[float]] = {name: [] for name in forms if name != "attnc"}
    times: dict[str, Timing] = {}
    for _ in range(runs):
        times = interleave(forms, seconds)
        for name, ratios in found.items():
            ratios.append(times[name].median / times["attnc"].median)
    middle = {name: sorted(ratios)[len(ratios) // 2] for name, ratios in found.items()}
    return ScanRow(case, what, times["attnc"], middle, errors)


def checked(case: ScanCase, operator: Any) -> tuple[float, float]:
    """The errors of attnc's result beside the oracle's, and of its gradients beside the peer's in
    float64. Raises AttncError where either, or the peer, is wrong."""
    tensors = case.tensors(CHECKED)
    truth = torch.from_numpy(operator.reference(**tensors))
    error, peer = (
        _error(one, truth) for one in (operator(**tensors), case.peer(*tensors.values()))
    )
    exact = {name: x.double().requires_grad_() for name, x in tensors.items()}
    leaves = {name: x.clone().requires_grad_() for name, x in tensors.items()}
    given = torch.randn_like(tensors["v"])
    wanted = torch.autograd.grad(case.peer(*exact.values()), list(exact.values()), given.double())
    found = torch.autograd.grad(operator(**leaves), list(leaves.values()), given)
    slope = max(_error(x, right) for x, right in zip(found, wanted, strict=True))
    if not max(error, peer, slope) < LIMIT:
        raise AttncError(f"bench: {case.name} is wrong (errors {error}, {peer}, {slope})")
    return error, slope


def _error(found: torch.Tensor, truth: torch.Tensor) -> float:
    return float((found.detach().double() - truth).norm() / truth.norm())
