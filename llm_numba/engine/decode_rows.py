"""What a decoding step tells the device, row by row: kept from step to step, sent in one copy.

From one step to the next little changes in a batch that decodes: each sequence has one token more,
and now and then a block more. So the host keeps a table with a row for each sequence, writes what
is new with a few vectorised assignments, and copies the table's beginning into the buffer that goes
to the device. Rows that only fill the batch up to its bucket write to the cache's null block.
"""

from typing import Any, NamedTuple

import numpy as np

from llm_numba.engine.request import Sequence
from llm_numba.engine.step import IN_FLIGHT, Work
from llm_numba.engine.step_inputs import sampling_fields
from llm_numba.kvcache import PagedKVCache

# The rows of the matrix of words; the last ones change with each step.
FIELDS = (
    "temperature", "top_k", "top_p", "min_p", "streams",
    "token_ids", "sources", "positions", "slots", "context_lens", "draws",
)  # fmt: skip
_FLOATS = ("temperature", "top_p", "min_p")


class Bucket(NamedTuple):
    """The shapes that a graph was captured for.

    Attributes
    ----------
    rows : int
        R, sequences.
    width : int
        W, blocks of a row's block table.
    """

    rows: int
    width: int

    @property
    def num_words(self) -> int:
        """Words of 32 bits that such a step tells the device."""
        return self.rows * (2 + len(FIELDS) + self.width)


class DecodeInputs(NamedTuple):
    """Views of the words of a step, on the host or on the device.

    Attributes
    ----------
    seeds : uint64 [R]
    words : int32 [11, R]
        A row for each of :data:`FIELDS`.
    block_tables : int32 [R, W]
    """

    seeds: Any
    words: Any
    block_tables: Any

    def field(self, name: str) -> Any:
        """Return one of :data:`FIELDS`, float32 or int32 [R]."""
        row = self.words[FIELDS.index(name)]
        return row.view(np.float32) if name in _FLOATS else row


def inputs_of(memory: Any, bucket: Bucket) -> DecodeInputs:
    """See the beginning of a buffer as the inputs of a step.

    Parameters
    ----------
    memory : int32 [at least bucket.num_words]
    bucket : Bucket

    Returns
    -------
    DecodeInputs
        Seeds come first: there they are aligned whatever R is.
    """
    rows, width = bucket
    end_of_seeds, end_of_words = 2 * rows, (2 + len(FIELDS)) * rows
    return DecodeInputs(
        memory[:end_of_seeds].view(np.uint64),
        memory[end_of_seeds:end_of_words].reshape(len(FIELDS), rows),
        memory[end_of_words : bucket.num_words].reshape(rows, width),
    )


class DecodeRows:
    """The host's table of the sequences that decode.

    Parameters
    ----------
    bucket : Bucket
        The largest: room for that many sequences of that many blocks.
    kv_cache : PagedKVCache
    vocab_size : int
    """

    def __init__(self, bucket: Bucket, kv_cache: PagedKVCache, vocab_size: int) -> None:
        self._block_size = kv_cache.block_size
        self._null_block = kv_cache.null_block
        self._vocab_size = vocab_size
        self._all = inputs_of(np.zeros(bucket.num_words, np.int32), bucket)
        self._fields = {name: self._all.field(name) for name in FIELDS}
        self._prompt_lens = np.zeros(bucket.rows, np.int32)
        self._next = np.zeros(bucket.rows, np.int32)  # the position that continues a row
        self._indices = np.arange(bucket.rows)
        self._sequences: list[Sequence] = []
        self._lineages: list[object] = []  # of the tables whose blocks were read
        self._width = 0  # blocks of the longest row so far
        self._clear(0, bucket.rows)

    def update(self, works: list[Work], sources: dict[Sequence, int]) -> int:
        """Bring the table up to date.

        Parameters
        ----------
        works : list of B Work
            Of one token each.
        sources : dict of Sequence to int
            In which row the step before sampled a sequence's token.

        Returns
        -------
        int
            Blocks of the longest row's table.
        """
        count, fields = len(works), self._fields
        sequences = [work.sequence for work in works]
        lineages = [sequence.table.lineage for sequence in sequences]
        starts = np.array([work.start for work in works], np.int32)
        if sequences != self._sequences:
            self._rearrange(sequences)
        if lineages != self._lineages or (starts != self._next[:count]).any():
            self._read_blocks(lineages, starts)
        slots = np.array([work.slots[0] for work in works], np.int32)
        tokens = [work.token_ids[0] for work in works]
        columns = starts // self._block_size
        # A new block, or the private copy of a shared one, is always that of the new token.
        self._all.block_tables[self._indices[:count], columns] = slots // self._block_size
        context_lens = starts + 1
        fields["token_ids"][:count] = tokens
        fields["sources"][:count] = [
            sources[sequence] if token == IN_FLIGHT else 0
            for sequence, token in zip(sequences, tokens, strict=True)
        ]
        fields["positions"][:count] = starts
        fields["slots"][:count] = slots
        fields["context_lens"][:count] = context_lens
        fields["draws"][:count] = context_lens - self._prompt_lens[:count]
        self._next[:count] = context_lens
        width = int(columns.max()) + 1
        self._width = max(self._width, width)
        return width

    def write(self, inputs: DecodeInputs) -> None:
        """Copy the table's beginning into a buffer.

        Parameters
        ----------
        inputs : DecodeInputs
            Of the bucket to fill.
        """
        rows, width = inputs.block_tables.shape
        inputs.seeds[...] = self._all.seeds[:rows]
        inputs.words[...] = self._all.words[:, :rows]
        inputs.block_tables[...] = self._all.block_tables[:rows, :width]

    def clear(self) -> None:
        """Forget all sequences; every row is padding then."""
        self._clear(0, len(self._indices))
        self._sequences, self._lineages = [], []

    def _rearrange(self, sequences: list[Sequence]) -> None:
        """Move the rows of sequences that go on, begin those of new ones, clear the rest."""
        places = {sequence: row for row, sequence in enumerate(self._sequences)}
        before = [places.get(sequence, -1) for sequence in sequences]
        moves = [(old, new) for new, old in enumerate(before) if old not in (-1, new)]
        fresh = [row for row, old in enumerate(before) if old < 0]
        self._lineages = [None if old < 0 else self._lineages[old] for old in before]
        if moves:
            old, new = map(list, zip(*moves, strict=True))
            tables = self._all.block_tables[:, : self._width]
            for table in (self._all.seeds, self._prompt_lens, self._next, tables):
                table[new] = table[old]
            self._all.words[:, new] = self._all.words[:, old]
        if fresh:
            fields = sampling_fields([sequences[row] for row in fresh], self._vocab_size)
            self._all.seeds[fresh] = fields.pop("seeds")
            for name, values in fields.items():
                self._fields[name][fresh] = values
            self._prompt_lens[fresh] = [
                len(sequences[row].request.prompt_token_ids) for row in fresh
            ]
        self._clear(len(sequences), len(self._sequences))
        self._sequences = sequences

    def _read_blocks(self, lineages: list[object], starts: np.ndarray) -> None:
        """Read the tables of which more is new than a last block."""
        is_known = self._next[: len(starts)] == starts
        for row, (sequence, lineage) in enumerate(zip(self._sequences, lineages, strict=True)):
            if lineage is not self._lineages[row] or not is_known[row]:
                blocks = sequence.table.blocks
                self._all.block_tables[row, : len(blocks)] = blocks
                self._width = max(self._width, len(blocks))
        self._lineages = lineages

    def _clear(self, begin: int, end: int) -> None:
        """Make rows padding: token 0 at position 0, in a context of its own."""
        rows = slice(begin, end)
        self._all.seeds[rows] = 0
        self._all.words[:, rows] = 0
        self._fields["context_lens"][rows] = 1
        self._fields["slots"][rows] = self._null_block * self._block_size
        self._all.block_tables[rows, :1] = self._null_block
