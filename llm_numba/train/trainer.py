"""Train the storyteller from nothing: tokenizer, model, evaluation, checkpoint.

Everything but the number of steps follows from ``--seed``. The number of steps follows from
``--minutes`` and the speed of the machine, and is recorded; ``--steps`` repeats it.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from tokenizers import Tokenizer
from torch import Tensor
from torch.nn import functional

from llm_numba.train import chat, dataset
from llm_numba.train.checkpoint import save_checkpoint
from llm_numba.train.model import CONFIG, Llama, document_mask
from llm_numba.train.tokenizer import train_tokenizer


@dataclass(frozen=True)
class Recipe:
    """Every hyperparameter of a run.

    Attributes
    ----------
    seed : int
        Seeds the weights, the training stream and the tokenizer's stories.
    steps : int or None
        Optimiser steps; None: as many as ``minutes`` allow.
    minutes : float
        The time for the optimiser steps, compilation included, where ``steps`` is None.
    rows : int
        Packed rows of 1,024 tokens a step.
    peak_learning_rate, final_learning_rate : float
        The schedule rises to the peak over ``warmup_steps`` and falls on a cosine to the end.
    warmup_steps : int
    weight_decay : float
        Of matrices; norms have none.
    betas : tuple of float
        Of AdamW.
    max_grad_norm : float
    """

    seed: int = 1
    steps: int | None = None
    minutes: float = 7.0
    rows: int = 64
    peak_learning_rate: float = 3e-3
    final_learning_rate: float = 3e-5
    warmup_steps: int = 300
    weight_decay: float = 0.1
    betas: tuple[float, float] = (0.9, 0.95)
    max_grad_norm: float = 1.0

    def learning_rate(self, step: int, steps: int) -> float:
        """Return the learning rate of ``step`` out of ``steps``."""
        if step < self.warmup_steps:
            return self.peak_learning_rate * (step + 1) / self.warmup_steps
        done = (step - self.warmup_steps) / max(1, steps - self.warmup_steps)
        fall = self.peak_learning_rate - self.final_learning_rate
        return self.final_learning_rate + fall * (1 + math.cos(math.pi * done)) / 2


@dataclass
class Progress:
    """What training records as it goes.

    Attributes
    ----------
    steps, tokens : int
        Steps taken, and tokens that were predicted (padding is not counted).
    seconds : float
        Wall time of the steps.
    curve : list of dict
        Step, learning rate and the mean loss since the last entry, in nats a token.
    """

    steps: int
    tokens: int
    seconds: float
    curve: list[dict]


_TIMED_STEPS = range(30, 60)
_LOG_EVERY = 50


def train(
    recipe: Recipe, device: str, workers: int, output: Path
) -> tuple[Llama, Tokenizer, Progress]:
    """Train a model; write an unfinished checkpoint to ``output`` at each quarter.

    Parameters
    ----------
    recipe : Recipe
        The hyperparameters.
    device : str
        PyTorch's name of the device.
    workers : int
        Processes that write stories.
    output : Path
        The checkpoint's directory.

    Returns
    -------
    model, tokenizer, progress
    """
    tokenizer = train_tokenizer(recipe.seed)
    print(f"tokenizer: {tokenizer.get_vocab_size()} tokens", flush=True)
    torch.manual_seed(recipe.seed)
    model = Llama(CONFIG).to(device)
    stream = dataset.batches(tokenizer, recipe.seed, recipe.rows, workers)
    try:
        progress = _optimise(model, tokenizer, stream, recipe, device, output)
    finally:
        stream.close()
    return model, tokenizer, progress


def _optimise(
    model: Llama,
    tokenizer: Tokenizer,
    stream: Iterator[np.ndarray],
    recipe: Recipe,
    device: str,
    output: Path,
) -> Progress:
    """Take all optimiser steps."""
    begin, pad = tokenizer.token_to_id(chat.BEGIN), tokenizer.token_to_id(chat.PAD)
    optimiser = torch.optim.AdamW(
        [
            {"params": [p for p in model.parameters() if p.ndim == 2],
             "weight_decay": recipe.weight_decay},
            {"params": [p for p in model.parameters() if p.ndim == 1], "weight_decay": 0.0},
        ],
        lr=recipe.peak_learning_rate, betas=recipe.betas, fused=True,
    )
    loss_of = torch.compile(batch_loss) if device.startswith("cuda") else batch_loss
    steps = recipe.steps
    curve: list[dict] = []
    tokens, loss_sum, started = 0, torch.zeros((), device=device), time.perf_counter()
    for step, rows in enumerate(stream):
        if step == _TIMED_STEPS.start:
            timed_from = _now(device)
        if step == _TIMED_STEPS.stop and steps is None:
            step_time = (_now(device) - timed_from) / len(_TIMED_STEPS)
            left = 60 * recipe.minutes - (time.perf_counter() - started)
            steps = step + int(left / step_time)
            print(f"{1e3 * step_time:.2f} ms a step: {steps} steps", flush=True)
        if step == steps:
            break
        rate = recipe.learning_rate(step, steps or recipe.warmup_steps)
        for group in optimiser.param_groups:
            group["lr"] = rate
        batch = torch.from_numpy(rows.astype(np.int64)).to(device, non_blocking=True)
        with torch.autocast(torch.device(device).type, torch.bfloat16):
            loss = loss_of(model, batch, begin, pad)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), recipe.max_grad_norm)
        optimiser.step()
        optimiser.zero_grad(set_to_none=True)
        loss_sum += loss.detach()
        tokens += int((rows != pad).sum())
        if (step + 1) % _LOG_EVERY == 0:
            mean = loss_sum.item() / _LOG_EVERY
            loss_sum.zero_()
            curve.append({"step": step + 1, "learning_rate": rate, "loss": round(mean, 4)})
            seconds = time.perf_counter() - started
            print(f"step {step + 1}: loss {mean:.4f}, {tokens / seconds:,.0f} tokens/s",
                  flush=True)
        if steps and (step + 1) % max(1, steps // 4) == 0 and step + 1 < steps:
            save_checkpoint(model, tokenizer, output)
    seconds = _now(device) - started
    return Progress(steps, tokens, seconds, curve)


def batch_loss(model: Llama, tokens: Tensor, begin: int, pad: int) -> Tensor:
    """Return the mean cross-entropy of each next token within its document, in nats.

    ``tokens`` [B, S] are packed rows; nothing is asked of padding or of the token that begins
    the next document.
    """
    targets = functional.pad(tokens[:, 1:], (0, 1), value=pad)
    targets = torch.where((targets == begin) | (targets == pad), -100, targets)
    logits = model(tokens, document_mask(tokens, begin))
    return functional.cross_entropy(
        logits.flatten(0, 1).float(), targets.flatten(), ignore_index=-100
    )


def _now(device: str) -> float:
    """Return the time when the device has done all it was given."""
    if device.startswith("cuda"):
        torch.cuda.synchronize()
    return time.perf_counter()


def thin(curve: list[dict], most: int = 80) -> list[dict]:
    """Return at most ``most`` entries of a loss curve, evenly spaced, the last one included."""
    stride = -(-len(curve) // most)
    return list(islice(reversed(curve), 0, None, max(1, stride)))[::-1]
