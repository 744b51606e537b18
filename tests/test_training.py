"""The training scripts of examples/models, a few steps each; gradients of models through attnc."""

from __future__ import annotations

import os
import subprocess
import sys
from functools import partial
from pathlib import Path
from types import ModuleType

import pytest
import torch

BACKEND = "cpu"
MODELS = Path(__file__).resolve().parent.parent / "examples" / "models"
SMALL = ("--context", "24", "--batch", "2", "--width", "32", "--layers", "2", "--window", "8")


@pytest.fixture
def models(monkeypatch: pytest.MonkeyPatch) -> None:
    """The modules of examples/models can be imported."""
    monkeypatch.syspath_prepend(str(MODELS))


def script(name: str, *options: str) -> str:
    """What a script prints; it must end well."""
    command = [sys.executable, str(MODELS / name), *options]
    environment = os.environ | {"COLUMNS": "120"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def new_run(attention: str, steps: int = 6) -> ModuleType:
    from char_lm import Shape
    from training import Plan, Run

    shape = Shape(width=32, heads=2, layers=2, context=24, window=8)
    plan = Plan(steps=steps, batch=2, rate=3e-3, warm=2, backend=BACKEND, shape=shape)
    text = torch.randint(97, 123, (600,), generator=torch.Generator().manual_seed(1))
    return Run(attention, plan, text.to(torch.uint8))  # type: ignore[return-value]


def test_the_same_seed_gives_the_same_losses(models: None) -> None:
    runs = {name: new_run(name) for name in ("sdpa", "attnc")}
    for run in runs.values():
        run.train()
    sdpa, ours = (torch.tensor(run.losses) for run in runs.values())
    torch.testing.assert_close(ours, sdpa, rtol=1e-4, atol=1e-4)
    assert ours[-1] < ours[0] - 0.1


def test_the_variant_learns_its_own_parameters(models: None) -> None:
    run = new_run("variant")
    assert not any(value.any() for value in run.learned().values())
    run.train()
    learned = run.learned()
    assert len(learned) == 4 and all(value.abs().max() > 1e-4 for value in learned.values())
    assert all(value.isfinite().all() for value in learned.values())


@pytest.mark.parametrize("attention, own", [("delta", 4), ("hybrid", 6)])
def test_recurrences_learn_their_gates(
    models: None, quick_build: None, attention: str, own: int
) -> None:
    """Losses go down as those of softmax do, and every gate moves."""
    run = new_run(attention)
    run.train()
    assert run.losses[-1] < run.losses[0] - 0.1
    learned = run.learned()
    assert len(learned) == own and all(value.abs().max() > 1e-4 for value in learned.values())
    assert all(value.isfinite().all() for value in learned.values())


def test_an_interrupted_run_goes_on_as_if_nothing_had_been(models: None, tmp_path: Path) -> None:
    whole, begun = new_run("variant"), new_run("variant")
    whole.train()
    for _ in range(3):
        begun.step()
    begun.save(tmp_path / "variant.pt")
    resumed = new_run("variant")
    resumed.load(tmp_path / "variant.pt")
    assert len(resumed.losses) == 3
    resumed.train()
    assert resumed.losses == whole.losses
    with pytest.raises(ValueError, match="another plan"):
        new_run("variant", steps=7).load(tmp_path / "variant.pt")


def test_train_char_lm(tmp_path: Path, quick_build: None) -> None:
    """The whole script: curves, the learned tables, and a second start that has nothing to do."""
    options = (*SMALL, "--steps", "4", "--backend", BACKEND, "--out", str(tmp_path))
    options += tuple(word for name in ("sdpa", "variant", "delta") for word in ("--only", name))
    for more in ((), ("--resume",)):
        printed = script("train_char_lm.py", *options, *more)
        assert "delta" in printed and "steps/s" in printed
    for name in ("losses.png", "learned.png"):
        assert (tmp_path / name).read_bytes().startswith(b"\x89PNG")


def test_gradients_of_a_transformers_model(models: None, seed: int) -> None:
    """A grouped-head decoder of random weights: every parameter's gradient as with SDPA."""
    from bridge import attend, register
    from finetune import apart, finetune
    from test_models import llama, padded

    register("attnc", partial(attend, backend=BACKEND))
    model, inputs = llama(seed).train(), padded((40, 33), False, seed)
    runs = {name: finetune(model, inputs, name, steps=2, rate=1e-3) for name in ("sdpa", "attnc")}
    assert max(apart(*runs.values()).values()) < 1e-3
    sdpa, ours = (torch.tensor(run.losses) for run in runs.values())
    torch.testing.assert_close(ours, sdpa, rtol=1e-4, atol=1e-4)


@pytest.mark.models
def test_gradients_of_smollm2() -> None:
    """One step with the weights of SmolLM2, its first three layers."""
    options = ("--steps", "1", "--layers", "3", "--backend", BACKEND)
    assert "apart" in script("finetune.py", *options)
