"""Evaluate and sample a model right after training, in PyTorch."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

import torch
from tokenizers import Tokenizer

from llm_numba.train import chat
from llm_numba.train.dataset import ROW_LENGTH, recall_prompt
from llm_numba.train.model import Llama, document_mask
from llm_numba.train.questions import KINDS
from llm_numba.train.stories import held_out_stories


@dataclass(frozen=True)
class Accuracy:
    """Right answers and questions of each kind, and some of the mistakes."""

    right: Counter[str]
    asked: Counter[str]
    mistakes: list[dict]

    def by_kind(self) -> dict[str, float]:
        """Return the share of right answers to each kind of question."""
        return {kind: self.right[kind] / self.asked[kind] for kind in KINDS if self.asked[kind]}

    def record(self) -> dict:
        """Return the accuracy as JSON-ready numbers."""
        total = sum(self.asked.values())
        return {
            "questions": total,
            "accuracy": sum(self.right.values()) / total,
            "by_kind": {
                kind: {"questions": self.asked[kind], "accuracy": accuracy}
                for kind, accuracy in self.by_kind().items()
            },
            "mistakes": self.mistakes[:: max(1, len(self.mistakes) // 40)],
        }


@torch.inference_mode()
def probe_recall(
    model: Llama, tokenizer: Tokenizer, num_stories: int, seed: int = 0, batch_size: int = 128
) -> Accuracy:
    """Ask every question of ``num_stories`` held-out stories, each in a prompt of its own.

    No decoding is needed: greedy decoding gives the answer exactly if every token of it is the
    most likely one after those before it, and a token that stops follows. One pass shows both.
    """
    device = next(model.parameters()).device
    begin, pad = tokenizer.token_to_id(chat.BEGIN), tokenizer.token_to_id(chat.PAD)
    stops = [tokenizer.token_to_id(token) for token in (chat.END, chat.EOT)]
    cases = []
    for story in held_out_stories(num_stories, seed):
        for question in story.questions:
            prompt = tokenizer.encode(recall_prompt(story, question)).ids
            answer = tokenizer.encode(f" {question.answer}\n", add_special_tokens=False).ids
            cases.append((prompt, answer, question))
    cases.sort(key=lambda case: len(case[0]) + len(case[1]))
    right, asked, mistakes = Counter(), Counter(), []
    for start in range(0, len(cases), batch_size):
        chunk = cases[start : start + batch_size]
        length = max(len(prompt) + len(answer) for prompt, answer, _ in chunk)
        tokens = torch.full((len(chunk), length), pad)
        for row, (prompt, answer, _) in enumerate(chunk):
            tokens[row, : len(prompt) + len(answer)] = torch.tensor(prompt + answer)
        tokens = tokens.to(device)
        best = model(tokens, document_mask(tokens, begin)).argmax(-1).cpu()
        for row, (prompt, answer, question) in enumerate(chunk):
            said = best[row, len(prompt) - 1 : len(prompt) + len(answer) - 1].tolist()
            exact = said[:-1] == answer[:-1] and said[-1] in (answer[-1], *stops)
            asked[question.kind] += 1
            right[question.kind] += exact
            if not exact:
                mistakes.append(
                    {
                        "kind": question.kind,
                        "tokens": len(prompt),
                        "question": question.text,
                        "answer": question.answer,
                        "said": tokenizer.decode(said).strip(),
                    }
                )
    return Accuracy(right, asked, mistakes)


@torch.inference_mode()
def sample(
    model: Llama,
    tokenizer: Tokenizer,
    prompts: list[str],
    temperature: float,
    seed: int,
    max_tokens: int = 420,
) -> list[str]:
    """Return a continuation of each prompt, special tokens shown, until it ends.

    Without a cache, the whole text is read again for each token: simple, and fast enough for a
    few prompts on a GPU.
    """
    device = next(model.parameters()).device
    begin, pad = tokenizer.token_to_id(chat.BEGIN), tokenizer.token_to_id(chat.PAD)
    stops = {tokenizer.token_to_id(chat.END), tokenizer.token_to_id(chat.EOT)}
    generator = torch.Generator(device).manual_seed(seed)
    texts = [tokenizer.encode(prompt, add_special_tokens=False).ids for prompt in prompts]
    starts = [len(ids) for ids in texts]
    running = set(range(len(texts)))
    for _ in range(max_tokens):
        length = max(len(ids) for ids in texts)
        if not running or length == ROW_LENGTH:
            break
        tokens = torch.full((len(texts), -(-length // 8) * 8), pad)
        for row, ids in enumerate(texts):
            tokens[row, : len(ids)] = torch.tensor(ids)
        last = torch.tensor([len(ids) - 1 for ids in texts])
        tokens = tokens.to(device)
        logits = model(tokens, document_mask(tokens, begin))
        logits = logits[torch.arange(len(texts)), last.to(device)]
        chosen = torch.multinomial((logits / temperature).softmax(-1), 1, generator=generator)
        for row in sorted(running):
            texts[row].append(int(chosen[row]))
            if texts[row][-1] in stops:
                running.remove(row)
    pairs = zip(texts, starts, strict=True)
    return [tokenizer.decode(ids[start:], skip_special_tokens=False) for ids, start in pairs]
