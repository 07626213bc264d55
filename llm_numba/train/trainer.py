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
from safetensors.torch import load_file
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
    answer_weight : float
        How much more than another token a token of an answer counts in the loss. Answers are a
        tenth of the text, but they are what the model is for.
    peak_learning_rate, final_learning_rate : float
        The schedule rises to the peak over ``warmup_steps`` and falls on a cosine to the end.
    warmup_steps : int
    weight_decay : float
        Of matrices; norms have none.
    betas : tuple of float
        Of AdamW.
    max_grad_norm : float
    resume : str or None
        The directory of the checkpoint (and tokenizer) to start from; None: from nothing.
    """

    seed: int = 1
    steps: int | None = None
    minutes: float = 7.0
    rows: int = 32
    answer_weight: float = 8.0
    peak_learning_rate: float = 2e-3
    final_learning_rate: float = 2e-5
    warmup_steps: int = 500
    weight_decay: float = 0.1
    betas: tuple[float, float] = (0.9, 0.95)
    max_grad_norm: float = 1.0
    resume: str | None = None

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
        Step, learning rate, and the mean cross-entropy since the last entry, in nats a token,
        of all tokens ("loss") and of answers ("answer_loss").
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
    torch.manual_seed(recipe.seed)
    model = Llama(CONFIG).to(device)
    if recipe.resume is None:
        tokenizer = train_tokenizer(recipe.seed)
    else:
        tokenizer = Tokenizer.from_file(f"{recipe.resume}/tokenizer.json")
        model.load_state_dict(load_file(f"{recipe.resume}/model.safetensors"))
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
            {
                "params": [p for p in model.parameters() if p.ndim == 2],
                "weight_decay": recipe.weight_decay,
            },
            {"params": [p for p in model.parameters() if p.ndim == 1], "weight_decay": 0.0},
        ],
        lr=recipe.peak_learning_rate,
        betas=recipe.betas,
        fused=True,
    )
    loss_of = torch.compile(batch_loss) if device.startswith("cuda") else batch_loss
    steps = recipe.steps
    curve: list[dict] = []
    tokens, losses, started = 0, torch.zeros(2, device=device), time.perf_counter()
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
            objective, parts = loss_of(model, batch, begin, pad, recipe.answer_weight)
        objective.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), recipe.max_grad_norm)
        optimiser.step()
        optimiser.zero_grad(set_to_none=True)
        losses += parts
        tokens += int((rows != pad).sum())
        if (step + 1) % _LOG_EVERY == 0 or step + 1 == steps:
            count = step % _LOG_EVERY + 1
            loss, answer_loss = (round(part / count, 4) for part in losses.tolist())
            losses.zero_()
            curve.append(
                {"step": step + 1, "learning_rate": rate, "loss": loss, "answer_loss": answer_loss}
            )
            seconds = time.perf_counter() - started
            print(
                f"step {step + 1}: loss {loss:.4f}, of answers {answer_loss:.4f}, "
                f"{tokens / seconds:,.0f} tokens/s",
                flush=True,
            )
        if steps and (step + 1) % max(1, steps // 4) == 0 and step + 1 < steps:
            save_checkpoint(model, tokenizer, output)
    seconds = _now(device) - started
    return Progress(steps, tokens, seconds, curve)


def batch_loss(
    model: Llama, rows: Tensor, begin: int, pad: int, answer_weight: float
) -> tuple[Tensor, Tensor]:
    """Return the training objective and the two cross-entropies that are recorded.

    Parameters
    ----------
    model : Llama
    rows : int64 [B, S]
        Packed documents, answers marked. Nothing is asked of padding, nor of the token that
        begins the next document.
    begin, pad : int
        Token ids.
    answer_weight : float
        The weight of an answer's tokens; others have 1.

    Returns
    -------
    objective : scalar
        The weighted mean cross-entropy of the next token, in nats.
    parts : [2]
        The plain mean over all tokens, and over answers.
    """
    tokens = rows & (dataset.ANSWER_BIT - 1)
    targets = functional.pad(tokens[:, 1:], (0, 1), value=pad).flatten()
    answer = functional.pad(rows[:, 1:] >= dataset.ANSWER_BIT, (0, 1)).flatten().float()
    asked = ((targets != begin) & (targets != pad)).float()
    logits = model(tokens, document_mask(tokens, begin))
    loss = functional.cross_entropy(logits.flatten(0, 1).float(), targets, reduction="none")
    weight = asked + (answer_weight - 1) * answer
    objective = (weight * loss).sum() / weight.sum()
    loss = loss.detach()
    parts = torch.stack([(asked * loss).sum() / asked.sum(), (answer * loss).sum() / answer.sum()])
    return objective, parts


def _now(device: str) -> float:
    """Return the time when the device has done all it was given."""
    if device.startswith("cuda"):
        torch.cuda.synchronize()
    return time.perf_counter()


def thin(curve: list[dict], most: int = 80) -> list[dict]:
    """Return at most ``most`` entries of a loss curve, evenly spaced, the last one included."""
    stride = -(-len(curve) // most)
    return list(islice(reversed(curve), 0, None, max(1, stride)))[::-1]
