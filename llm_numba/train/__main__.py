"""``python -m llm_numba.train``: train the storyteller and write its checkpoint and record."""

from __future__ import annotations

import argparse
import json
import os
import subprocess
from dataclasses import asdict
from pathlib import Path

from llm_numba.errors import CheckpointError, DependencyError, DeviceError, LLMNumbaError

_OPENINGS = (
    "Once upon a time",
    "One morning, Mia",
    "Long ago",
    "This is a story about Priya,",
    "Tom was a",
)
_REQUESTS = (
    "Tell me a story.",
    "Tell me a story about Tom and a red ball.",
    "Please tell me a story about a green kite.",
    "A story about Kenji, please.",
    "Tell me a long story about an animal in trouble.",
)


def main() -> None:
    """Train, evaluate, sample, and write everything."""
    parser = argparse.ArgumentParser(prog="python -m llm_numba.train", description=__doc__)
    parser.add_argument("--output", type=Path, required=True, help="the checkpoint's directory")
    parser.add_argument("--record", type=Path, required=True, help="the run's JSON record")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--steps", type=int, help="optimiser steps (default: what --minutes allow)")
    parser.add_argument("--minutes", type=float, default=7.0)
    parser.add_argument("--rows", type=int, default=32, help="rows of 1,024 tokens a step")
    parser.add_argument("--learning-rate", type=float, default=2e-3, help="the schedule's peak")
    parser.add_argument("--resume", type=Path, help="a checkpoint to start from")
    parser.add_argument("--resume-record", type=Path, help="that checkpoint's record")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--workers", type=int, default=max(1, (os.cpu_count() or 2) - 2))
    parser.add_argument("--stories", type=int, default=2000, help="held-out stories to ask about")
    parser.add_argument("--samples", type=int, default=2, help="rounds of sampled texts to print")
    parser.add_argument("--commit", default=None, help="the source's commit (default: git's HEAD)")
    options = parser.parse_args()
    try:
        check(options)
    except LLMNumbaError as error:
        parser.error(str(error))  # exit code 2
    run(options)


def check(options: argparse.Namespace) -> None:
    """Find out before long work what it will lack.

    Parameters
    ----------
    options : argparse.Namespace

    Raises
    ------
    DependencyError
        If PyTorch is not installed.
    DeviceError
        If PyTorch sees no GPU and one is asked for.
    CheckpointError
        If there is no checkpoint to start from.
    """
    try:
        import torch
    except ImportError:
        raise DependencyError(
            "Training needs PyTorch, which is not installed.", "Install the extra 'train'."
        ) from None
    if options.device.startswith("cuda") and not torch.cuda.is_available():
        raise DeviceError(f"PyTorch finds no device {options.device!r}.", "Give --device cpu.")
    if options.resume and not (options.resume / "model.safetensors").is_file():
        raise CheckpointError(
            f"{options.resume} holds no model.safetensors.", "Give the directory of a checkpoint."
        )


def run(options: argparse.Namespace) -> None:
    """Do what the command line asked for."""
    import torch

    from llm_numba.train import chat, probe
    from llm_numba.train.card import card, environment
    from llm_numba.train.checkpoint import save_checkpoint
    from llm_numba.train.model import CONFIG
    from llm_numba.train.trainer import Recipe, thin, train

    recipe = Recipe(
        seed=options.seed,
        steps=options.steps,
        minutes=options.minutes,
        rows=options.rows,
        peak_learning_rate=options.learning_rate,
        resume=options.resume and str(options.resume),
    )
    model, tokenizer, progress = train(recipe, options.device, options.workers, options.output)
    save_checkpoint(model, tokenizer, options.output)

    with torch.no_grad():  # what is evaluated is what was saved
        for parameter in model.parameters():
            parameter.copy_(parameter.bfloat16().float())
    accuracy = probe.probe_recall(model, tokenizer, options.stories)
    commit = (
        options.commit
        or subprocess.run(
            ["git", "rev-parse", "HEAD"], capture_output=True, text=True, check=True
        ).stdout.strip()
    )
    stage = {
        "commit": commit,
        "environment": environment(options.device),
        "recipe": asdict(recipe) | {"resume": None},  # a path on this machine says nothing
        "steps": progress.steps,
        "tokens": progress.tokens,
        "seconds": round(progress.seconds, 1),
        "curve": thin(progress.curve),
        "accuracy_by_kind": accuracy.by_kind(),
    }
    record = {
        "config": CONFIG,
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "stages": [*_earlier_stages(options.resume_record), stage],
        "recall": {"stories": options.stories} | accuracy.record(),
    }
    save_checkpoint(model, tokenizer, options.output, card(record))
    options.record.parent.mkdir(parents=True, exist_ok=True)
    partial = options.record.with_suffix(".partial")
    partial.write_text(json.dumps(record, indent=1) + "\n")
    partial.rename(options.record)
    print(json.dumps(record["recall"], indent=1))

    asked = [
        chat.render([{"role": "user", "content": text}]) + chat.ASSISTANT for text in _REQUESTS
    ]
    prompts = [chat.BEGIN + text for text in _OPENINGS] + asked
    for seed in range(options.samples):
        texts = probe.sample(model, tokenizer, prompts, 0.7, seed)
        for prompt, text in zip(prompts, texts, strict=True):
            print(f"\n{prompt}{text}")


def _earlier_stages(record: Path | None) -> list[dict]:
    """Return the stages of the run that this one goes on from."""
    return [] if record is None else json.loads(record.read_text())["stages"]


if __name__ == "__main__":
    main()
