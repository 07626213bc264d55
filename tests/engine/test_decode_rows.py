"""What a decoding step sends to the device: after any step, all of it and nothing stale."""

import numpy as np
import pytest
from decoding import VOCAB_SIZE, decode, new_sequences

from llm_numba.engine.decode_graphs import all_buckets, bucket_of
from llm_numba.engine.decode_rows import FIELDS, Bucket, DecodeRows, inputs_of
from llm_numba.kvcache import PagedKVCache

LARGEST = Bucket(rows=12, width=9)


@pytest.fixture
def kv_cache() -> PagedKVCache:
    """A cache of no layers: blocks and tables are all that counts here."""
    return PagedKVCache(0, 200, 4, 1, 1, np.dtype(np.float32))


def sent(rows: DecodeRows, bucket: Bucket):
    """What the device would read: written over noise."""
    inputs = inputs_of(np.full(bucket.num_words, 77, np.int32), bucket)
    rows.write(inputs)
    return inputs


def begun(kv_cache, length: int, **fields):
    """A sequence whose prompt is computed, with one token of its answer."""
    (sequence,) = new_sequences(kv_cache, list(range(1, length + 1)), **fields)
    sequence.table.append_slots(length)
    sequence.output.token_ids.append(5)
    return sequence


def assert_right(inputs, works, sources, kv_cache):
    """Held to the works themselves, field by field."""
    count = len(works)
    for row, work in enumerate(works):
        params, table = work.sequence.request.params, work.sequence.table
        blocks = inputs.block_tables[row, : len(table.blocks)]
        assert blocks.tolist() == table.blocks
        assert inputs.seeds[row] == params.seed
        expected = {
            "temperature": 0 if params.greedy else params.temperature,
            "top_k": params.top_k,
            "top_p": params.top_p,
            "min_p": params.min_p,
            "streams": work.sequence.output.index,
            "token_ids": work.token_ids[0],
            "positions": work.start,
            "slots": work.slots[0],
            "context_lens": work.start + 1,
            "draws": len(work.sequence.output.token_ids) + (work.token_ids[0] < 0),
        }
        for name, value in expected.items():
            assert inputs.field(name)[row] == np.float32(value), name
        if work.token_ids[0] < 0:
            assert inputs.field("sources")[row] == sources[work.sequence]
    assert (inputs.block_tables[count:, 0] == kv_cache.null_block).all()
    assert (inputs.field("context_lens")[count:] == 1).all()
    null_slots = kv_cache.null_block * kv_cache.block_size
    assert (inputs.field("slots")[count:] == null_slots).all()
    for name in ("token_ids", "sources", "positions", "draws"):
        assert not inputs.field(name)[count:].any()


def test_a_fresh_table_is_padding(kv_cache):
    assert_right(sent(DecodeRows(LARGEST, kv_cache, VOCAB_SIZE), LARGEST), [], {}, kv_cache)


def test_seeds_keep_all_their_bits_and_parameters_theirs(kv_cache):
    sequence = begun(kv_cache, 3, seed=2**64 - 3, temperature=0.7, top_k=5, top_p=0.9, min_p=0.05)
    rows = DecodeRows(LARGEST, kv_cache, VOCAB_SIZE)
    works = [decode(sequence)]
    assert rows.update(works, {}) == 1
    assert_right(sent(rows, Bucket(1, 1)), works, {}, kv_cache)


def test_a_shared_block_that_was_copied_is_the_copy_in_the_next_step(kv_cache):
    (first, second) = new_sequences(kv_cache, [1, 2, 3], n=2, temperature=1.0)
    first.table.append_slots(3)
    second.table = first.table.fork()
    rows = DecodeRows(LARGEST, kv_cache, VOCAB_SIZE)
    for sequence in (first, second):
        sequence.output.token_ids.append(9)
    works = [decode(first), decode(second)]
    assert first.table.blocks != second.table.blocks
    rows.update(works, {})
    assert_right(sent(rows, Bucket(2, 1)), works, {}, kv_cache)


def test_a_sequence_that_was_computed_anew_up_to_the_same_token_has_its_new_blocks(kv_cache):
    """As after Ctrl-C or pre-emption: the position goes on as if nothing had happened."""
    sequence = begun(kv_cache, 7)
    rows = DecodeRows(LARGEST, kv_cache, VOCAB_SIZE)
    rows.update([decode(sequence)], {})
    before = list(sequence.table.blocks)
    sequence.table.free()
    kv_cache.new_table().append_slots(1)
    sequence.table.append_slots(8)
    sequence.output.token_ids.append(5)
    works = [decode(sequence)]
    assert sequence.table.blocks[:2] != before
    rows.update(works, {})
    assert_right(sent(rows, Bucket(1, 4)), works, {}, kv_cache)


def test_steps_that_passed_elsewhere_are_caught_up_with(kv_cache):
    """Steps with a piece of a prompt in them are sent in another way."""
    sequence = begun(kv_cache, 3)
    rows = DecodeRows(LARGEST, kv_cache, VOCAB_SIZE)
    rows.update([decode(sequence)], {})
    for _ in range(9):
        sequence.output.token_ids.append(5)
        decode(sequence)
    sequence.output.token_ids.append(5)
    works = [decode(sequence)]
    rows.update(works, {})
    assert_right(sent(rows, Bucket(1, 4)), works, {}, kv_cache)


@pytest.mark.parametrize("seed", range(4))
def test_any_schedule_sends_what_a_table_made_anew_would(kv_cache, seed):
    """Sequences come, go, change places, stay out of steps, and are computed again elsewhere."""
    rng = np.random.default_rng(seed)
    rows = DecodeRows(LARGEST, kv_cache, VOCAB_SIZE)
    live: list = []
    sources: dict = {}
    for _ in range(300):
        if len(live) < LARGEST.rows and rng.random() < 0.3:
            live.append(
                begun(
                    kv_cache,
                    int(rng.integers(1, 20)),
                    seed=int(rng.integers(2**63)),
                    temperature=float(rng.choice([0.0, 0.5, 2.0])),
                    top_k=int(rng.integers(9)),
                )
            )
        if live and rng.random() < 0.2:
            live.pop(rng.integers(len(live))).table.free()
        if live and rng.random() < 0.1:
            again = live[rng.integers(len(live))].table
            length = again.num_tokens
            again.free()
            live[0].table.append_slots(0)
            kv_cache.allocator.free(kv_cache.allocator.allocate())
            again.append_slots(int(rng.integers(1, length + 1)))
        if rng.random() < 0.3:
            rng.shuffle(live)
        for sequence in [s for s in live if s.table.num_tokens == 36]:
            live.remove(sequence)
            sequence.table.free()
        chosen = [s for s in live if rng.random() < 0.9]
        if not chosen:
            continue
        for sequence in chosen:
            missing = sequence.table.num_tokens + 1 - len(sequence.token_ids())
            sequence.output.token_ids += [5] * missing
            prompt = len(sequence.request.prompt_token_ids)
            del sequence.output.token_ids[max(0, sequence.table.num_tokens + 1 - prompt) :]
        works = [decode(s) for s in chosen if s.table.num_tokens >= len(s.request.prompt_token_ids)]
        if not works:
            continue
        sources = {work.sequence: row for row, work in enumerate(rng.permutation(works))}
        for work in works:
            if rng.random() < 0.5:
                work.sequence.output.token_ids.pop()
                work.token_ids = [-1]
        width = rows.update(works, sources)
        assert width == max(len(work.sequence.table.blocks) for work in works)
        bucket = bucket_of(len(works), width, LARGEST)
        assert_right(sent(rows, bucket), works, sources, kv_cache)
        for work in works:
            if work.token_ids == [-1]:
                work.sequence.output.token_ids.append(5)
        if rng.random() < 0.05:
            rows.clear()


# -- Buckets ------------------------------------------------------------------------------------


def test_a_step_fits_its_bucket_which_is_the_least():
    largest = Bucket(100, 24)
    buckets = all_buckets(largest)
    assert {bucket.rows for bucket in buckets} == {1, 2, 4, *range(8, 97, 8), 100}
    assert {bucket.width for bucket in buckets} == {1, 2, 4, 8, 16, 24}
    for rows in range(1, 101):
        for width in range(1, 25):
            fitting = [b for b in buckets if b.rows >= rows and b.width >= width]
            assert bucket_of(rows, width, largest) == min(fitting)


def test_the_largest_bucket_comes_first():
    """Its graph takes the most memory; the others find room in it."""
    largest = Bucket(5, 3)
    assert all_buckets(largest)[0] == largest


def test_fields_lie_side_by_side_and_seeds_on_eight_bytes():
    bucket = Bucket(3, 2)
    memory = np.arange(bucket.num_words, dtype=np.int32)
    inputs = inputs_of(memory, bucket)
    parts = [inputs.seeds.view(np.int32), inputs.words.ravel(), inputs.block_tables.ravel()]
    np.testing.assert_array_equal(np.concatenate(parts), memory)
    assert inputs.seeds.ctypes.data == memory.ctypes.data
    assert len(inputs.words) == len(FIELDS)
