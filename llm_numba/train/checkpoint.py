"""Write the trained model as a Hugging Face directory, complete or not at all."""

from __future__ import annotations

import json
import shutil
import tempfile
from pathlib import Path

import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer

from llm_numba.train import chat
from llm_numba.train.model import CONFIG, Llama
from llm_numba.train.tokenizer import save_tokenizer


def save_checkpoint(
    model: Llama, tokenizer: Tokenizer, directory: Path, card: str | None = None
) -> None:
    """Write the model to ``directory``, replacing what is there by rename.

    Parameters
    ----------
    model : Llama
        Its weights are rounded to bfloat16 on the way.
    tokenizer : tokenizers.Tokenizer
        The model's tokenizer.
    directory : Path
        Where the checkpoint appears.
    card : str, optional
        The text of README.md.
    """
    directory.parent.mkdir(parents=True, exist_ok=True)
    new = Path(tempfile.mkdtemp(prefix=f".{directory.name}-", dir=directory.parent))
    new.chmod(0o755)
    tensors = {
        name: tensor.to(torch.bfloat16).contiguous().cpu()
        for name, tensor in model.state_dict().items()
    }
    save_file(tensors, new / "model.safetensors", metadata={"format": "pt"})
    (new / "model.safetensors").chmod(0o644)
    begin, end, eot, pad = (
        tokenizer.token_to_id(token) for token in (chat.BEGIN, chat.END, chat.EOT, chat.PAD)
    )
    config = CONFIG | {"bos_token_id": begin, "eos_token_id": end, "pad_token_id": pad}
    _write_json(new / "config.json", config)
    _write_json(
        new / "generation_config.json",
        {
            "bos_token_id": begin,
            "eos_token_id": [end, eot],
            "pad_token_id": pad,
            "do_sample": True,
            "temperature": 0.7,
            "top_p": 0.95,
        },
    )
    save_tokenizer(tokenizer, new, CONFIG["max_position_embeddings"])
    if card is not None:
        (new / "README.md").write_text(card)
    if directory.exists():
        old = new.with_name(new.name + "-old")
        directory.rename(old)
        new.rename(directory)
        shutil.rmtree(old)
    else:
        new.rename(directory)


def _write_json(path: Path, value: dict) -> None:
    path.write_text(json.dumps(value, indent=2) + "\n")
