"""Write the golden fixtures: tiny random checkpoints with Transformers' logits and greedy tokens.

    fixtures/<case>/     config.json, generation_config.json, model*.safetensors
    fixtures/<case>/logits.npy   float32 [S + 32, V], prompt and greedy tokens in one pass
    manifest.json        per case: what it covers, versions, prompt and greedy ids, tolerance

The reference is computed in float32 from the weights as stored, by the release that wrote them.
`cases.py` says which release writes which case; a run writes the cases of the release it finds
and leaves the others. All of them:

    for version in 4.51.3 4.57.6 5.23.0; do
        python3 -m venv /tmp/golden-$version
        /tmp/golden-$version/bin/pip install torch "transformers==$version" "numpy<2.5"
        /tmp/golden-$version/bin/python tests/golden/make.py
    done

Weights and prompts come from seeds, so a second run changes nothing on the same machine and the
last bits of the logits on another. A seed is passed over until every greedy token leads clearly
and the continuation is no short loop; a case is refused when switching a feature off leaves the
logits as they were, for it would not test the feature.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from pathlib import Path
from typing import Any

import checkpoints
import numpy as np
import torch
import transformers
from cases import CASES, STEPS, VOCAB, Case
from safetensors.torch import load_file, save_file

HERE = Path(__file__).parent
FIXTURES = HERE / "fixtures"
MANIFEST = HERE / "manifest.json"

TOLERANCE = 1e-4
# Within one tolerance of the reference, an engine without the feature would pass.
SMALLEST_EFFECT = 2 * TOLERANCE
MIN_DISTINCT_TOKENS = 10


# -- Files as the hub has them ----------------------------------------------------------------


def edit_config(directory: Path, removed: tuple[str, ...] = (), **changed: Any) -> None:
    path = directory / "config.json"
    config = json.loads(path.read_text()) | changed
    kept = {key: value for key, value in sorted(config.items()) if key not in removed}
    path.write_text(json.dumps(kept, indent=2) + "\n")


def edit_tensors(directory: Path, tensors: dict[str, torch.Tensor]) -> None:
    save_file(tensors, directory / "model.safetensors", metadata={"format": "pt"})


def add_rotary_buffers(directory: Path, model: transformers.PreTrainedModel) -> None:
    """Llama 2 as first published stores the RoPE frequencies of every layer."""
    tensors = load_file(directory / "model.safetensors")
    for layer in range(model.config.num_hidden_layers):
        name = f"model.layers.{layer}.self_attn.rotary_emb.inv_freq"
        tensors[name] = model.model.rotary_emb.inv_freq.to(torch.float32).clone()
    edit_tensors(directory, tensors)


def spell_rope_type_as_type(directory: Path, model: transformers.PreTrainedModel) -> None:
    """Checkpoints of 2023 say {"type": "linear"}."""
    del model
    edit_config(directory, rope_scaling={"type": "linear", "factor": 4.0})


def store_tied_head(directory: Path, model: transformers.PreTrainedModel) -> None:
    """Some fine-tuning tools store lm_head.weight although it is tied."""
    del model
    tensors = load_file(directory / "model.safetensors")
    edit_tensors(
        directory, tensors | {"lm_head.weight": tensors["model.embed_tokens.weight"].clone()}
    )


def drop_layer_types(directory: Path, model: transformers.PreTrainedModel) -> None:
    """Before 4.53 only max_window_layers told which layers slide."""
    del model
    edit_config(directory, removed=("layer_types",))


def name_unused_window(directory: Path, model: transformers.PreTrainedModel) -> None:
    """Qwen2.5 names a window that use_sliding_window switches off."""
    del model
    edit_config(
        directory,
        removed=("layer_types",),
        sliding_window=4,
        max_window_layers=0,
        use_sliding_window=False,
    )


def write_as_first_gpt2(directory: Path, model: transformers.PreTrainedModel) -> None:
    """GPT-2 as first published: a bare GPT2Model with its mask buffers and few config keys."""
    config = model.config
    tensors = {
        name.removeprefix("transformer."): tensor
        for name, tensor in load_file(directory / "model.safetensors").items()
    }
    n = config.n_positions
    for layer in range(config.n_layer):
        tensors[f"h.{layer}.attn.bias"] = torch.ones(n, n).tril().view(1, 1, n, n)
        tensors[f"h.{layer}.attn.masked_bias"] = torch.tensor(-1e4)
    edit_tensors(directory, tensors)
    kept = ("activation_function", "architectures", "attn_pdrop", "bos_token_id", "embd_pdrop",
            "eos_token_id", "initializer_range", "layer_norm_epsilon", "model_type", "n_embd",
            "n_head", "n_layer", "n_positions", "resid_pdrop", "vocab_size")  # fmt: skip
    written = json.loads((directory / "config.json").read_text())
    edit_config(directory, removed=tuple(written.keys() - set(kept)), n_ctx=n)


# -- One case ---------------------------------------------------------------------------------


def write_checkpoint(case: Case, seed: int, directory: Path) -> transformers.PreTrainedModel:
    """Write the files; return the same model, in float32, without reading them."""
    model = checkpoints.random_model(case.family, case.config, seed)
    checkpoints.save(model, directory, case.storage, case.shard_size)
    if case.edit:
        globals()[case.edit](directory, model)
    # `save` rounded the RoPE frequencies as well: only the weights may be taken over.
    unread = checkpoints.empty_model(case.family, case.config)
    unread.load_state_dict(model.state_dict())
    return unread


def effects(case: Case, model: transformers.PreTrainedModel, run: checkpoints.Reference,
            prompt: list[int]) -> dict[str, float]:  # fmt: skip
    """How far the logits move when each feature is off, as a share of the largest logit."""
    moved = {}
    for feature, change in case.without.items():
        weights = dict(model.state_dict())
        if isinstance(change, str):
            neutral = float("norm" in change)
            for name in weights:
                if name.endswith(change):
                    weights[name] = torch.full_like(weights[name], neutral)
            change = {}
        other = checkpoints.empty_model(case.family, case.config | change)
        other.load_state_dict(weights)
        shifted = checkpoints.logits(other, prompt + run.greedy)
        moved[feature] = float(np.abs(shifted - run.logits).max() / np.abs(run.logits).max())
        if moved[feature] < SMALLEST_EFFECT:
            raise RuntimeError(f"{case.name}: {feature} moves the logits by {moved[feature]:.1e}")
    return moved


def write_case(case: Case, directory: Path) -> dict[str, Any]:
    """Write one fixture and return its entry in the manifest."""
    for seed in range(200):
        shutil.rmtree(directory, ignore_errors=True)
        unread = write_checkpoint(case, seed, directory)
        model = checkpoints.load(directory)
        prompt = checkpoints.random_prompt(VOCAB, case.prompt_length, seed)
        run = checkpoints.reference(model, prompt, STEPS)
        if run.is_decisive(MIN_DISTINCT_TOKENS):
            break
    else:
        raise RuntimeError(f"{case.name}: no seed gives a decisive continuation")
    if not np.array_equal(checkpoints.logits(unread, prompt + run.greedy), run.logits):
        raise RuntimeError(f"{case.name}: Transformers does not read the files as they are meant")
    moved = effects(case, model, run, prompt)
    np.save(directory / "logits.npy", run.logits)
    return {
        "name": case.name,
        "family": case.family,
        "covers": list(case.covers),
        "transformers": transformers.__version__,
        "torch": torch.__version__,
        "seed": seed,
        "tolerance": TOLERANCE,
        "effects": {feature: float(f"{effect:.2g}") for feature, effect in moved.items()},
        "margin": float(f"{run.margin:.2g}"),
        "noise": float(f"{run.noise:.2g}"),
        "prompt": prompt,
        "greedy": run.greedy,
    }


# -- All cases --------------------------------------------------------------------------------


def replace_directory(new: Path, target: Path) -> None:
    """Put `new` at `target` by renaming; a reader sees the old files or the new ones."""
    old = new.with_name(new.name + ".old")
    if target.exists():
        target.rename(old)
    new.rename(target)
    shutil.rmtree(old, ignore_errors=True)


def write_manifest(entries: dict[str, dict[str, Any]]) -> None:
    """One case a line, in the order of the table."""
    lines = ",\n".join(json.dumps(entries[c.name]) for c in CASES if c.name in entries)
    new = MANIFEST.with_suffix(".new")
    new.write_text(f"[\n{lines}\n]\n")
    os.replace(new, MANIFEST)


def main() -> None:
    """Write the cases that belong to the installed release of Transformers."""
    transformers.logging.set_verbosity_error()
    torch.set_num_threads(1)
    FIXTURES.mkdir(exist_ok=True)
    entries = {}
    if MANIFEST.exists():
        entries = {entry["name"]: entry for entry in json.loads(MANIFEST.read_text())}
    mine = [case for case in CASES if transformers.__version__.startswith(case.writer)]
    if not mine:
        raise SystemExit(f"No case is written by Transformers {transformers.__version__}.")
    with tempfile.TemporaryDirectory(dir=HERE, prefix=".new-") as scratch:
        for case in mine:
            entry = write_case(case, Path(scratch) / case.name)
            replace_directory(Path(scratch) / case.name, FIXTURES / case.name)
            entries[case.name] = entry
            write_manifest(entries)
            print(f"{case.name:26} seed {entry['seed']:3}  margin {entry['margin']:.1e}  "
                  f"noise {entry['noise']:.1e}  {entry['effects']}")  # fmt: skip


if __name__ == "__main__":
    main()
