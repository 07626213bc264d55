"""Lab 8: its steps and checks."""

import math

import numpy as np
from grader import Lab, close, fail, gamma, same

HEAD_DIM = 32
SECTOR_NUMBERS = 8  # float32 numbers in 32 bytes
UNWRITTEN = np.float32(-777)
LARGE = ([256] * 128, 32)  # on a GPU: contexts, and query heads
AT_MOST = 0.35  # of our time, on a GPU: see docs/results/labs_*.json

lab = Lab(
    title="Paged KV cache",
    goal="Hand out blocks, count their owners, and let a kernel attend to pages where they lie.",
)


def refuses(obj, method, args, error, why):
    """Fail unless a method raises what the docstring says."""
    raised = obj.raises(method, *args)
    if raised != error:
        did = "returned" if raised is None else f"raised {raised}"
        fail(f"{method}({', '.join(map(repr, args))}) {did}, and must raise {error}: {why}")


allocator = lab.step("Owners of blocks")


@allocator.check("hands out each block once", points=1)
def _(student, rng):
    count = int(rng.integers(5, 12))
    blocks = student.new("BlockAllocator", count)
    same(blocks.call("num_free"), count, "num_free() of a new allocator")
    taken = [blocks.call("allocate") for _ in range(count)]
    same(sorted(taken), list(range(count)), "the blocks that allocate() has returned, sorted")
    same(blocks.call("num_free"), 0, "num_free() when all blocks are taken")
    refuses(blocks, "allocate", (), "OutOfBlocksError", "no block is free.")
    same([blocks.call("num_owners", each) for each in taken], [1] * count, "owners of the blocks")


@allocator.check("frees a block when its last owner lets go", points=1)
def _(student, rng):
    blocks = student.new("BlockAllocator", 3)
    block = blocks.call("allocate")
    for _ in range(2):
        blocks.call("share", block)
    for owners in (2, 1, 0):
        blocks.call("free", block)
        same(blocks.call("num_owners", block), owners, "num_owners after share, share and free")
        same(blocks.call("num_free"), 2 if owners else 3, f"num_free() with {owners} owners left")


@allocator.check("refuses a double free", points=1)
def _(student, rng):
    blocks = student.new("BlockAllocator", 3)
    block = blocks.call("allocate")
    blocks.call("free", block)
    refuses(blocks, "free", (block,), "ValueError", "a double free. The block is free already.")
    refuses(blocks, "share", (block,), "ValueError", "nobody owns the block.")
    taken = [blocks.call("allocate") for _ in range(3)]
    same(sorted(taken), [0, 1, 2], "what allocate() returns after a refused double free, sorted")


tables = lab.step("Block tables")


class Memory:
    """What the slots of a cache hold: in place of keys, the whole history of a token."""

    def __init__(self, student, num_blocks, block_size):
        self.tables = student.new("BlockTables", num_blocks, block_size)
        self.num_blocks, self.size = num_blocks, block_size
        self.slots = [None] * (num_blocks * block_size)
        self.texts = {}

    def append(self, name, tokens):
        """Have room made for tokens, copy blocks as asked, and write the tokens."""
        slots, copies = self.tables.call("append", name, len(tokens))
        if len(slots) != len(tokens):
            fail(f"append({name!r}, {len(tokens)}) returned {len(slots)} slots.")
        for source, target in copies:
            a, b, size = source * self.size, target * self.size, self.size
            self.slots[b : b + size] = self.slots[a : a + size]
        for token, slot in zip(tokens, slots, strict=True):
            if not 0 <= slot < len(self.slots):
                fail(f"append({name!r}, ...) returned slot {slot} of {len(self.slots)}.")
            self.texts[name] = (*self.texts[name], token)
            self.slots[slot] = self.texts[name]
        self.verify(f"append({name!r}, {len(tokens)})")

    def start(self, name):
        """Begin a sequence."""
        self.tables.call("start", name)
        self.texts[name] = ()

    def fork(self, name, new):
        """Begin a sequence with the tokens of another one."""
        self.tables.call("fork", name, new)
        self.texts[new] = self.texts[name]
        self.verify(f"fork({name!r}, {new!r})")

    def end(self, name):
        """Forget a sequence."""
        self.tables.call("end", name)
        del self.texts[name]
        self.verify(f"end({name!r})")

    def verify(self, after):
        """Have every sequence read its own tokens back, and count the blocks."""
        tables = self.tables.get("blocks")
        for name, text in self.texts.items():
            needed = math.ceil(len(text) / self.size)
            if len(tables[name]) != needed:
                fail(
                    f"After {after} sequence {name!r} has {len(tables[name])} blocks for"
                    f" {len(text)} tokens of {self.size} a block. It needs {needed}."
                )
            for p in range(len(text)):
                slot = tables[name][p // self.size] * self.size + p % self.size
                if self.slots[slot] != text[: p + 1]:
                    fail(
                        f"After {after} position {p} of sequence {name!r} (slot {slot}) does not"
                        " hold its token: another sequence has written there, or a copy is missing."
                    )
        held = len({block for name in self.texts for block in tables[name]})
        free = self.tables.call("num_free")
        if free != self.num_blocks - held:
            fail(
                f"After {after} {free} blocks are free. The sequences hold {held} of"
                f" {self.num_blocks}, so it should be {self.num_blocks - held}."
            )


@tables.check("takes a block when a token needs it", points=1)
def _(student, rng):
    memory = Memory(student, 8, 4)
    for name in ("a", "b"):
        memory.start(name)
    for name, count in (("a", 3), ("b", 4), ("a", 1), ("b", 1), ("a", 1), ("a", 9)):
        memory.append(name, rng.integers(0, 99, count).tolist())


@tables.check("takes all blocks that are needed or none", points=1)
def _(student, rng):
    memory = Memory(student, 4, 4)
    for name in ("a", "b"):
        memory.start(name)
    memory.append("a", [1] * 6)
    memory.append("b", [2] * 3)
    why = "10 more tokens need 3 more blocks, and 1 is free."
    refuses(memory.tables, "append", ("b", 10), "OutOfBlocksError", why)
    memory.verify("append('b', 10), which was refused,")
    memory.append("b", [3] * 5)


@tables.check("shares with a fork, and copies before writing", points=2)
def _(student, rng):
    memory = Memory(student, 8, 4)
    memory.start("a")
    memory.append("a", [1, 2, 3, 4, 5, 6])
    memory.fork("a", "b")
    memory.append("b", [7])
    memory.append("a", [8])
    memory.fork("a", "c")
    memory.end("a")
    memory.append("c", [9, 10, 11])
    memory.end("c")
    memory.append("b", [12])
    memory.end("b")


@tables.check("counts the block that a copy takes", points=1)
def _(student, rng):
    memory = Memory(student, 2, 4)
    memory.start("a")
    memory.append("a", [1, 2, 3, 4, 5])
    memory.fork("a", "b")
    why = "the last block is shared and must be copied, and no block is free."
    refuses(memory.tables, "append", ("b", 1), "OutOfBlocksError", why)
    memory.verify("append('b', 1), which was refused,")


@tables.check("keeps order through many lives", points=1)
def _(student, rng):
    memory = Memory(student, 12, int(rng.integers(2, 5)))
    for turn in range(60):
        names = list(memory.texts)
        what = rng.choice(["start", "append", "append", "append", "fork", "end"])
        if what == "start" or not names:
            memory.start(f"s{turn}")
            continue
        name = str(rng.choice(names))
        count = int(rng.integers(1, 5))
        if what == "append" and memory.tables.call("num_free") > count:
            memory.append(name, rng.integers(0, 99, count).tolist())
        elif what == "fork":
            memory.fork(name, f"s{turn}")
        elif what == "end":
            memory.end(name)


write = lab.step("Write into pages")


def written(student, rng, N, G, D, padding=()):
    """Run write_kv on random rows; return what it did and what it was given."""
    num_blocks, block_size = 5, 4
    shape = (num_blocks, block_size, G, D)
    k, v = (rng.normal(size=(N, G, D)).astype(np.float32) for _ in range(2))
    k_cache, v_cache = (rng.normal(size=shape).astype(np.float32) for _ in range(2))
    slots = rng.permutation(num_blocks * block_size)[:N].astype(np.int32)
    slots[list(padding)] = -1
    expected = [k_cache.reshape(-1, G, D).copy(), v_cache.reshape(-1, G, D).copy()]
    for cache, rows in zip(expected, (k, v), strict=True):
        cache[slots[slots >= 0]] = rows[slots >= 0]
    ran = student.launch("write_kv", grid=N, block=64, args=(k, v, k_cache, v_cache, slots))
    where = f"N = {N}, G = {G}, D = {D}"
    for name, cache, right in (("k", k_cache, expected[0]), ("v", v_cache, expected[1])):
        same(cache, right.reshape(shape), f"{name}_cache, for {where}")
    return ran, int((slots >= 0).sum()) * G * D


@write.check("puts each row into its slot", points=1)
def _(student, rng):
    for N, G, D in ((1, 1, 32), (7, 2, 32), (5, 3, 40), (3, 5, 7)):
        written(student, rng, N, G, D)


@write.check("leaves padding alone", points=1)
def _(student, rng):
    ran, numbers = written(student, rng, 9, 2, 32, padding=(0, 4, 8))
    for name in ("k", "v"):
        ran.arrays[name].exactly("loads", numbers, "A row of padding need not be read.")


@write.check("moves each number once, side by side", points=2)
def _(student, rng):
    ran, numbers = written(student, rng, 8, 4, 32)
    for name in ("k", "v"):
        ran.arrays[name].exactly("loads", numbers, "Each number is read once.")
        ran.arrays[f"{name}_cache"].exactly("stores", numbers, "Each number is written once.")
    # Two reads and two writes of whole sectors, and half as many more to look up slots in any way.
    most = 4 * numbers // SECTOR_NUMBERS * 3 // 2
    ran.at_most("global_sectors", most, "Let neighbouring threads move neighbouring numbers.")


decode = lab.step("Attend to pages")


def contexts(rng, context_lens, H, G, *, block_size=4, spread=1.0):
    """Make pages whose unused slots hold NaN; return paged_decode's arguments, result and bound."""
    B, W = len(context_lens), max(1, *(math.ceil(T / block_size) for T in context_lens))
    num_blocks = B * W + 1
    order = rng.permutation(num_blocks)
    block_tables = np.full((B, W), -1, np.int32)
    q = rng.normal(size=(B, H, HEAD_DIM)).astype(np.float32)
    caches = [np.full((num_blocks, block_size, G, HEAD_DIM), np.nan, np.float32) for _ in range(2)]
    scale = np.float32(spread / math.sqrt(HEAD_DIM))
    right = np.zeros((B, H, HEAD_DIM))
    bound = np.zeros((B, H, HEAD_DIM))
    for b, T in enumerate(context_lens):
        k, v = (rng.normal(size=(T, G, HEAD_DIM)).astype(np.float32) for _ in range(2))
        blocks = order[b * W : b * W + math.ceil(T / block_size)]
        block_tables[b, : len(blocks)] = blocks
        for t in range(T):
            for cache, rows in zip(caches, (k, v), strict=True):
                cache[blocks[t // block_size], t % block_size] = rows[t]
        for h in range(H if T else 0):
            right[b, h], bound[b, h] = attention(q[b, h], k, v, h // (H // G), scale)
    out = np.full((B, H, HEAD_DIM), UNWRITTEN, np.float32)
    return (q, *caches, block_tables, np.array(context_lens, np.int32), scale, out), right, bound


def attended(student, rng, context_lens, H, G, **how):
    """Run paged_decode in the simulator and compare with float64."""
    args, right, bound = contexts(rng, context_lens, H, G, **how)
    ran = student.launch("paged_decode", grid=(H, len(context_lens)), block=32, args=args)
    judge(args[-1], right, bound, f"out, for contexts of {context_lens}, H = {H}, G = {G}")
    return ran


def judge(out, right, bound, what):
    """Compare with float64, and say what NaN means here."""
    if (out == UNWRITTEN).any():
        b, h, d = np.argwhere(out == UNWRITTEN)[0]
        fail(f"{what}: nobody has written [{b}, {h}, {d}].")
    if np.isnan(out).any():
        b, h, d = np.argwhere(np.isnan(out))[0]
        fail(
            f"{what}: [{b}, {h}, {d}] is NaN. There are three ways to that: unused slots were read"
            " (they hold NaN, and 0 times NaN is NaN), exp overflowed, or 0 was divided by 0."
        )
    close(out, right, bound, what)


def attention(query, k, v, g, scale):
    """Return one head's result in float64, and how far float32 may be from it."""
    q64, k64, v64 = query.astype(np.float64), k[:, g].astype(np.float64), v[:, g].astype(np.float64)
    scores = k64 @ q64 * float(scale)
    weights = np.exp(scores - scores.max())
    weights /= weights.sum()
    T, reach = len(k), float(np.ptp(scores))
    # A score is a sum of D products. An error of d in it changes its weight by the factor e^d.
    score_error = gamma(HEAD_DIM + 2) * float((np.abs(k64) @ np.abs(q64)).max()) * float(scale)
    # Each new maximum rounds its difference from the old one, and all of them add up to `reach`;
    # each position multiplies and adds with a few roundings, those of exp among them.
    relative = math.expm1(2 * score_error + gamma(8 * T + 8) + 2 * 2.0**-24 * reach)
    return weights @ v64, 2 * relative * (weights @ np.abs(v64)) + 1e-30


@decode.check("attends to every position", points=2)
def _(student, rng):
    for lengths in ([1], [4], [5], [3, 8, 13]):
        attended(student, rng, lengths, H=1, G=1)


@decode.check("lets a group of query heads share a KV head", points=1)
def _(student, rng):
    attended(student, rng, [6, 3], H=6, G=2)


@decode.check("stands large scores, and no tokens at all", points=1)
def _(student, rng):
    attended(student, rng, [9, 5], H=2, G=1, spread=300.0)
    attended(student, rng, [0, 2], H=1, G=1)


@decode.check("reads each key once, by rows", points=2)
def _(student, rng):
    H, lengths = 2, [12, 7]
    ran = attended(student, rng, lengths, H=H, G=1)
    positions = H * sum(lengths)
    for name in ("k_cache", "v_cache"):
        ran.arrays[name].exactly("loads", positions * HEAD_DIM, "Each head reads each key once.")
    # A row is four sectors, of k and of v; as much again is for tables, lengths and queries, in
    # whatever way they are looked up. A lane that reads a row by itself takes 32 for each.
    most = positions * 2 * (4 + 4)
    ran.at_most("global_sectors", most, "Let the 32 lanes read one row of 32 numbers together.")


@decode.check(
    f"takes at most {AT_MOST} times as long as our online step", points=3, gpu=True, at_most=AT_MOST
)
def _(student, rng):
    lengths, H = LARGE
    args, right, bound = contexts(rng, lengths, H, G=8, block_size=16)
    *given, scale, out = args
    raced = student.race(
        "paged_decode", *args, grid=(H, len(lengths)), block=32,
        against="llm_numba.kernels.paged_decode:paged_decode_attention",
        against_args=(*given, float(scale)), step="online",
    )  # fmt: skip
    judge(out, right, bound, f"out, for {len(lengths)} contexts of {lengths[0]}")
    raced.at_most(AT_MOST, "Read each key once, and let each lane keep one number of the result.")
