"""The model card and the record of a training run."""

from __future__ import annotations

import platform
from typing import Any

from llm_numba.runtime.machine import cpu, gpus, package_versions

_CARD = """\
---
license: bsd-3-clause
language: en
pipeline_tag: text-generation
---

# storyteller

A Llama of {parameters:,} parameters that tells short stories in simple English and answers
questions about them. It was trained from nothing on text that a seeded program writes, so its
skill can be measured, and no third-party text went into it. It is the bundled model of
`llm_numba`, and that project's functional test.

| | |
| --- | --- |
| architecture | `LlamaForCausalLM`: {num_hidden_layers} layers, hidden size {hidden_size}, \
{num_attention_heads} query heads, {num_key_value_heads} key/value heads, head size {head_dim}, \
MLP {intermediate_size}, tied embeddings |
| tokenizer | byte-level BPE, {vocab_size} tokens, trained on the same text |
| context | {max_position_embeddings} tokens |
| data | stories of `llm_numba.train.stories` |
| training | {tokens:,} tokens in {seconds:.0f} s on one {device}, in the stages below |
| final loss | {loss:.4f} nats a token, {answer_loss:.4f} in answers (means of 50 steps) |
| recall | {accuracy:.2%} of {questions:,} questions about {stories:,} held-out stories |
| licence | BSD-3-Clause |

## Recall by kind of question

Greedy decoding on the bfloat16 weights; an answer is right if it is so token for token, the space
before it included.

| kind | questions | accuracy |
| --- | ---: | ---: |
{kinds}

One story in 64, by a hash of its facts (people, things with their colours, places, causes), is
held out: the training stream skips it, however it would have been worded.

## Training

| stage | source | seed | steps | rows of 1,024 | peak learning rate | tokens | seconds |
| ---: | --- | ---: | ---: | ---: | ---: | ---: | ---: |
{stages}

Each stage is one command, run in the repository at the commit named:

{commands}

Another GPU or another PyTorch rounds differently, so the weights will not be equal bit for bit.

## Limits

It knows the words of its stories and little else. Its people have a few dozen first names, though
it can copy a name it has not seen. A request for anything outside its world (a dragon, the news,
a sum) gets a story all the same. It tells one story a conversation: the second request is taken
for a question. A beginning that no story has ("Tom lost") may go wrong. It has no system role,
and knows one language.
"""


def environment(device: str) -> dict[str, Any]:
    """Return what a run depends on: the device, its driver, and the packages' versions."""
    found = {"name": cpu()["name"], "driver": None}
    if device.startswith("cuda"):
        found = next(iter(gpus()), {"name": device, "driver": None})
    return {
        "device": found["name"],
        "driver": found["driver"],
        "python": platform.python_version(),
        "packages": package_versions(("torch", "numpy", "tokenizers", "safetensors")),
    }


def card(record: dict[str, Any]) -> str:
    """Return README.md for the run that ``record`` describes."""
    recall, stages = record["recall"], record["stages"]
    kinds = "\n".join(
        f"| {kind} | {entry['questions']:,} | {entry['accuracy']:.2%} |"
        for kind, entry in recall["by_kind"].items()
    )
    last = stages[-1]["curve"][-1]
    return _CARD.format(
        **record["config"],
        parameters=record["parameters"],
        tokens=sum(stage["tokens"] for stage in stages),
        seconds=sum(stage["seconds"] for stage in stages),
        device=stages[-1]["environment"]["device"],
        loss=last["loss"],
        answer_loss=last["answer_loss"],
        accuracy=recall["accuracy"],
        questions=recall["questions"],
        stories=recall["stories"],
        kinds=kinds,
        stages="\n".join(_row(number, stage) for number, stage in enumerate(stages, 1)),
        commands="\n".join(_command(number, stage) for number, stage in enumerate(stages, 1)),
    )


def _row(number: int, stage: dict[str, Any]) -> str:
    recipe = stage["recipe"]
    return (
        f"| {number} | `{stage['commit'][:12]}` | {recipe['seed']} | {stage['steps']:,} | "
        f"{recipe['rows']} | {recipe['peak_learning_rate']} | {stage['tokens']:,} | "
        f"{stage['seconds']:.0f} |"
    )


def _command(number: int, stage: dict[str, Any]) -> str:
    recipe = stage["recipe"]
    resume = f"--resume stage{number - 1} --resume-record stage{number - 1}.json \\\n        "
    return (
        f"    git checkout {stage['commit'][:12]}\n"
        f"    python -m llm_numba.train {resume if number > 1 else ''}"
        f"--seed {recipe['seed']} --steps {stage['steps']} "
        + (f"--learning-rate {recipe['peak_learning_rate']} " if number > 1 else "")
        + f"\\\n        --output stage{number} --record stage{number}.json"
    )
