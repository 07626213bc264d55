"""Train the storyteller's tokenizer: byte-level BPE on generated stories."""

from __future__ import annotations

import json
from itertools import islice
from pathlib import Path
from random import Random

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers

from llm_numba.train import chat, dataset
from llm_numba.train.stories import training_stories

VOCAB_SIZE = 1536


def train_tokenizer(seed: int, num_stories: int = 20_000) -> Tokenizer:
    """Return a byte-level BPE tokenizer trained on documents of the training stream.

    Every byte has a token, so any text round-trips. The special tokens get the first ids.

    Parameters
    ----------
    seed : int
        The training stream's seed.
    num_stories : int
        How many of its documents to learn the merges from.
    """
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCAB_SIZE,
        special_tokens=list(chat.SPECIAL_TOKENS),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    stories = islice(training_stories(seed), num_stories)
    documents = (dataset.document(story, Random(story.seed), 8) for story in stories)
    texts = ("".join(text for text, _ in pieces) for pieces in documents)
    tokenizer.train_from_iterator(texts, trainer)
    begin = tokenizer.token_to_id(chat.BEGIN)
    tokenizer.post_processor = processors.Sequence(
        [
            processors.ByteLevel(trim_offsets=False),
            processors.TemplateProcessing(
                single=f"{chat.BEGIN} $A",
                pair=f"{chat.BEGIN} $A $B",
                special_tokens=[(chat.BEGIN, begin)],
            ),
        ]
    )
    return tokenizer


def save_tokenizer(tokenizer: Tokenizer, directory: Path, max_length: int) -> None:
    """Write tokenizer.json, tokenizer_config.json and chat_template.jinja.

    Parameters
    ----------
    tokenizer : tokenizers.Tokenizer
        What :func:`train_tokenizer` returned.
    directory : Path
        Where to write.
    max_length : int
        The model's context length.
    """
    tokenizer.save(str(directory / "tokenizer.json"))
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": chat.BEGIN,
        "eos_token": chat.END,
        "pad_token": chat.PAD,
        "add_bos_token": True,
        "add_eos_token": False,
        "clean_up_tokenization_spaces": False,
        "model_max_length": max_length,
    }
    (directory / "tokenizer_config.json").write_text(json.dumps(config, indent=2) + "\n")
    (directory / "chat_template.jinja").write_text(chat.CHAT_TEMPLATE)
