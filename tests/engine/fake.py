"""A model that is a formula: what a step must have read and written can be checked to the token.

The key and value of a token stand for all tokens before it: here they are a hash of them. A work is
computed only if the slots of its table hold the hashes of exactly its own tokens, so blocks that
were mixed up, shared unduly, copied too early or found under a wrong key show at once.
"""

import numpy as np

from llm_numba.engine.core import Engine
from llm_numba.engine.request import Request, Sequence
from llm_numba.engine.step import IN_FLIGHT, Sampled, Step
from llm_numba.kvcache import PagedKVCache

VOCAB_SIZE = 16
EOS = 0


def extend(prefix: int, token_id: int) -> int:
    """The hash of a text and one more token."""
    return (prefix * 6364136223846793005 + token_id + 1442695040888963407) % (1 << 61)


def next_token(prefix: int, seed: int, index: int) -> int:
    """What follows a text, in one sample of a request."""
    return extend(extend(extend(prefix, seed), index), 7) // 1024 % VOCAB_SIZE


def expected_answer(
    prompt: list[int], seed: int, index: int, max_tokens: int, eos: int | None = EOS
) -> list[int]:
    """A request's answer, computed alone."""
    prefix, answer = 0, []
    for token_id in prompt:
        prefix = extend(prefix, token_id)
    while len(answer) < max_tokens and (not answer or answer[-1] != eos):
        answer.append(next_token(prefix, seed, index))
        prefix = extend(prefix, answer[-1])
    return answer


class FakeCache(PagedKVCache):
    """Holds a hash in each slot."""

    def __init__(self, num_blocks: int, block_size: int, *, prefix_caching: bool = True) -> None:
        identity = "fake" if prefix_caching else None
        super().__init__(0, num_blocks, block_size, 1, 1, np.dtype(np.float32), identity=identity)
        self.hashes = np.full((num_blocks, block_size), -1, np.int64)

    def copy_block(self, source: int, target: int) -> None:
        self.hashes[target] = self.hashes[source]


class FakeModel:
    """Stands for a model: what the engine asks of one."""

    class config:  # noqa: N801  stands for a ModelConfig
        vocab_size = VOCAB_SIZE


class Pending:
    """A step whose tokens are known to the device and not to the engine."""

    def __init__(self, sampled: list[Sampled]) -> None:
        self.sampled = sampled

    def wait(self) -> list[Sampled]:
        return self.sampled


class FakeRunner:
    """Computes steps by the formula, and holds each to what a step may be.

    Parameters
    ----------
    kv_cache : FakeCache
    depth : int
        As of a runner on a GPU or elsewhere.
    max_num_seqs, max_num_batched_tokens : int
        What no step may exceed.
    num_stages : int
        As of a runner of a pipeline.
    """

    def __init__(
        self,
        kv_cache: FakeCache,
        depth: int,
        max_num_seqs: int,
        max_num_batched_tokens: int,
        num_stages: int = 1,
    ) -> None:
        self.model, self.kv_cache, self.depth = FakeModel(), kv_cache, depth
        self.num_stages = num_stages
        self.limits = (max_num_seqs, max_num_batched_tokens)
        self.steps: list[list[tuple[Request, int]]] = []  # whose tokens, and how many
        self._texts: dict[Sequence, list[int]] = {}  # a hash for each token of a sequence
        self._in_flight: dict[Sequence, int] = {}  # what the step before sampled

    def settle(self) -> None:
        pass

    def submit(self, step: Step) -> Pending:
        works = step.works
        self.steps.append([(w.sequence.request, len(w.token_ids)) for w in works])
        assert works
        assert step.num_tokens == sum(len(work.token_ids) for work in works)
        assert len(works) <= self.limits[0]
        assert step.num_tokens <= self.limits[1]
        lengths = [len(work.token_ids) for work in works]
        assert all(n > 1 for n in lengths[lengths.count(1) :]), "those of one token come first"
        slots = [slot for work in works for slot in work.slots]
        assert len(set(slots)) == len(slots), "no two tokens share a slot"

        size = self.kv_cache.block_size
        store = self.kv_cache.hashes.reshape(-1)
        sampled = []
        for work in works:
            sequence, table = work.sequence, work.sequence.table
            assert table.num_tokens == work.start + len(work.token_ids)
            text = self._texts.setdefault(sequence, [])
            del text[work.start :]  # computed again
            found = sequence.token_ids()[len(text) : work.start]  # in the cache
            new = [self._in_flight[sequence] if i == IN_FLIGHT else i for i in work.token_ids]
            for token_id in found + new:
                text.append(extend(text[-1] if text else 0, token_id))
            if len(work.samplers) < 2:  # or else the samples have just begun to share it
                shared = map(
                    self.kv_cache.allocator.is_shared, (slot // size for slot in work.slots)
                )
                assert not any(shared), "nobody else may see the block"
            store[work.slots] = text[work.start : table.num_tokens]
            held = (np.array(table.blocks)[:, None] * size + np.arange(size)).reshape(-1)
            assert store[held[: table.num_tokens]].tolist() == text[: table.num_tokens]
            for sampler in work.samplers:
                self._texts[sampler] = list(text) if sampler is not sequence else text
                seed = sampler.request.seed
                token_id = next_token(text[table.num_tokens - 1], seed, sampler.output.index)
                sampled.append(Sampled(sampler, token_id))
        self._in_flight = {each.sequence: each.token_id for each in sampled}
        self._texts = {s: text for s, text in self._texts.items() if not s.finished}
        return Pending(sampled)


def new_engine(
    num_blocks: int,
    block_size: int = 4,
    *,
    depth: int = 0,
    max_model_len: int = 64,
    max_num_seqs: int = 8,
    max_num_batched_tokens: int = 100,
    prefix_caching: bool = True,
    max_seqs_by_priority: dict[str, int] | None = None,
    num_stages: int = 1,
) -> Engine:
    """An engine on the formula."""
    cache = FakeCache(num_blocks, block_size, prefix_caching=prefix_caching)
    runner = FakeRunner(cache, depth, max_num_seqs, max_num_batched_tokens, num_stages)
    return Engine(
        runner,
        tokenizer=None,
        eos_token_ids=frozenset({EOS}),
        max_model_len=max_model_len,
        max_num_seqs=max_num_seqs,
        max_num_batched_tokens=max_num_batched_tokens,
        max_seqs_by_priority=max_seqs_by_priority,
    )
