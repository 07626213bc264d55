"""Tell whether a solution of an exercise of the documentation is right.

    python tests/docs/exercises/check.py NAME your_file.py

Your file defines the function, or the kernel, that the exercise asks for. Exit code 0 and one line
when it is right; 1, and the first case that fails, when it is not. Kernels run in the simulator.
"""

import argparse
import json
import runpy
import sys
import tempfile
from collections.abc import Callable, Iterator
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file

from llm_numba import ops
from llm_numba.engine.memory import kv_bytes_per_token
from llm_numba.kvcache import BlockAllocator, BlockTable
from llm_numba.models import Tokenizer, parse_config, resolve_model, split_model
from llm_numba.models.llama import llama_tensors
from llm_numba.models.split import rank_config, windows_of
from llm_numba.parallel import Seat
from llm_numba.simulator import Report, simulate

# What a check yields: the case in words, what the solution gave, what is right.
Case = tuple[str, Any, Any]


def check_merge(merge: Callable) -> Iterator[Case]:
    """merge(pieces, ranks): byte-pair encoding of one word."""
    directory = resolve_model("storyteller")
    pairs = json.loads((directory / "tokenizer.json").read_text())["model"]["merges"]
    pairs = [tuple(pair.split(" ")) if isinstance(pair, str) else tuple(pair) for pair in pairs]
    ranks = {pair: rank for rank, pair in enumerate(pairs)}
    library = Tokenizer(directory)
    vocabulary = json.loads((directory / "tokenizer.json").read_text())["model"]["vocab"]
    for word in ("grandmother", "umbrella", "windmill", "xylophone", "aaaa", "Numba", "e"):
        right = library.encode(word, add_special_tokens=False)
        pieces = merge(list(word), dict(ranks))
        yield f"merge(list({word!r}), ranks)", [vocabulary.get(p, p) for p in pieces], right
    tie = {("a", "b"): 0, ("b", "a"): 1}
    yield "merge(list('ababa'), ...)", list(merge(list("ababa"), tie)), ["ab", "ab", "a"]


def check_read_header(read_header: Callable) -> Iterator[Case]:
    """read_header(path): name -> (dtype, shape, first byte in the file, end)."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.safetensors"
        tensors = {"a": np.arange(6, dtype=np.float32).reshape(2, 3), "b": np.ones(5, np.float16)}
        save_file(tensors, path, metadata={"format": "np"})
        found = read_header(path)
        yield "names, without __metadata__", sorted(found), ["a", "b"]
        for name, tensor in tensors.items():
            dtype, shape, begin, end = found[name]
            yield f"dtype of {name}", dtype, {4: "F32", 2: "F16"}[tensor.itemsize]
            yield f"shape of {name}", list(shape), list(tensor.shape)
            stored = path.read_bytes()[begin:end]
            yield f"bytes {begin} to {end} of {name}", stored, tensor.tobytes()


def check_rms_norm(rms_norm: Callable) -> Iterator[Case]:
    """rms_norm(x, weight, eps), without NumPy's help if you like."""
    rng = np.random.default_rng(0)
    for rows, width, size in ((1, 1, 1.0), (3, 7, 1.0), (2, 64, 1e-4), (2, 256, 1e6)):
        x, weight = size * rng.normal(size=(rows, width)), rng.normal(size=width)
        given = np.asarray(rms_norm(x.copy(), weight, 1e-5))
        yield f"x [{rows}, {width}] of size {size:g}", given, ops.rms_norm(x, weight, 1e-5)
    nothing = np.zeros((1, 4))
    yield "a row of zeros", np.asarray(rms_norm(nothing.copy(), np.ones(4), 1e-5)), nothing


def check_rotate(rotate: Callable) -> Iterator[Case]:
    """rotate(x, position, base): RoPE of one query or key, D numbers."""
    rng = np.random.default_rng(0)
    for D, position, base in ((2, 1, 1e4), (8, 0, 1e4), (32, 5, 1e4), (128, 7000, 5e5)):
        x = rng.normal(size=D)
        angles = ops.rope_frequencies(D, base, ops.RopeScaling())
        cos, sin = ops.rope_tables(angles, position + 1, np.dtype("float64"))
        right = ops.rope(x[None, None], np.array([position]), cos, sin)[0, 0]
        what = f"D = {D}, position {position}, base {base:g}"
        yield what, np.asarray(rotate(x.tolist(), position, base)), right


def check_attend(attend: Callable) -> Iterator[Case]:
    """attend(q, keys_and_values, scale): one query, each key and value seen once."""
    rng = np.random.default_rng(0)
    for T, D, size in ((1, 4, 1.0), (33, 8, 1.0), (500, 32, 1.0), (9, 16, 60.0)):
        q, k, v = size * rng.normal(size=D), size * rng.normal(size=(T, D)), rng.normal(size=(T, D))
        right = ops.causal_attention(q[None, None], k[:, None], v[:, None], D**-0.5)[0, 0]
        yield f"T = {T}, D = {D}, scores of size {size:g}", attend(q, _once(k, v), D**-0.5), right


def _once(k: np.ndarray, v: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Hand out keys and values in the same two arrays: what was not used is gone."""
    key, value = np.empty_like(k[0]), np.empty_like(v[0])
    for t in range(len(k)):
        key[:], value[:] = k[t], v[t]
        yield key, value
    key[:], value[:] = np.nan, np.nan


def check_close_block(close_block: Callable) -> Iterator[Case]:
    """close_block(heads, weight, residual): what attention made, into the stream, head by head."""
    rng = np.random.default_rng(0)
    for S, H, D, E in ((1, 1, 4, 4), (3, 2, 8, 16), (5, 8, 4, 24)):
        mixed, residual = rng.normal(size=(S, H, D)), rng.normal(size=(S, E))
        weight = rng.normal(size=(E, H * D))
        right = ops.linear(mixed.reshape(S, H * D), weight, residual=residual)
        given = close_block((mixed[:, h].copy() for h in range(H)), weight, residual.copy())
        yield f"S = {S}, H = {H}, D = {D}, E = {E}", np.asarray(given), right


def check_append_slots(append_slots: Callable) -> Iterator[Case]:
    """append_slots(blocks, num_tokens, count, block_size, take): the slots of new tokens."""
    for block_size, counts in ((4, (6, 3, 1, 0, 9)), (1, (2, 1)), (16, (16, 1, 31))):
        allocator, ours = BlockAllocator(64), BlockAllocator(64)
        table = BlockTable(allocator, block_size, lambda source, target: None)
        allocator.allocate(), ours.allocate()  # another sequence holds block 0
        blocks: list[int] = []
        num_tokens = 0
        for count in counts:
            given = append_slots(blocks, num_tokens, count, block_size, ours.allocate)
            right = table.append_slots(count)
            what = f"{count} more after {num_tokens} tokens, blocks of {block_size}"
            yield f"slots: {what}", list(given), right
            yield f"blocks: {what}", list(blocks), table.blocks
            num_tokens += count


def check_cache_tokens(cache_tokens: Callable) -> Iterator[Case]:
    """cache_tokens(free, L, G, D, item, block_size, P): tokens that a rank's cache holds."""
    for free, L, G, D, item, block_size, P in (
        (10**6, 6, 4, 32, 4, 16, 1),
        (50 * 2**30, 32, 8, 128, 2, 16, 1),
        (20 * 2**30, 80, 8, 128, 2, 16, 8),
        (20 * 2**30, 80, 8, 128, 2, 32, 16),
        (1000, 6, 4, 32, 4, 16, 2),
    ):
        config = parse_config({
            "architectures": ["LlamaForCausalLM"], "hidden_size": 8, "intermediate_size": 64,
            "num_hidden_layers": L, "num_attention_heads": 64, "num_key_value_heads": G,
            "head_dim": D, "vocab_size": 64,
        })  # fmt: skip
        part = rank_config(config, split_model(config, Seat(0, P)))
        block = kv_bytes_per_token(part, np.dtype(f"f{item}")) * block_size
        right = free // block * block_size
        what = f"{free:,} bytes, L={L}, G={G}, D={D}, item={item}, block_size={block_size}, P={P}"
        yield what, cache_tokens(free, L, G, D, item, block_size, P), right


def check_layer_parameters(layer_parameters: Callable) -> Iterator[Case]:
    """layer_parameters(E, F, H, G, D): weights in one layer of Llama, norms included."""
    for E, F, H, G, D in ((256, 640, 8, 4, 32), (4096, 14336, 32, 8, 128), (64, 96, 4, 1, 32)):
        config = parse_config({
            "architectures": ["LlamaForCausalLM"], "hidden_size": E, "intermediate_size": F,
            "num_hidden_layers": 1, "num_attention_heads": H, "num_key_value_heads": G,
            "head_dim": D, "vocab_size": 1,
        })  # fmt: skip
        right = sum(prod(s) for n, s in llama_tensors(config).items() if ".layers." in n)
        yield f"E={E}, F={F}, H={H}, G={G}, D={D}", layer_parameters(E, F, H, G, D), right


def check_qkv_rows(qkv_rows: Callable) -> Iterator[Case]:
    """qkv_rows(rank, P, H, G, D): rows of the stack of q, k and v that a rank has, in order."""
    for P, H, G, D in ((1, 4, 2, 4), (2, 4, 2, 6), (4, 8, 2, 2), (4, 4, 1, 4), (8, 32, 8, 2)):
        config = parse_config({
            "architectures": ["LlamaForCausalLM"], "hidden_size": 8, "intermediate_size": 8,
            "num_hidden_layers": 1, "num_attention_heads": H, "num_key_value_heads": G,
            "head_dim": D, "vocab_size": 8,
        })  # fmt: skip
        for rank in range(P):
            partition = split_model(config, Seat(rank, P))
            windows = windows_of(llama_tensors(config), config, partition, "megatron")
            right, first = [], 0
            for name, heads in zip("qkv", (H, G, G), strict=True):
                ((rows, _),) = windows[f"model.layers.0.self_attn.{name}_proj.weight"]
                right += [first + row for row in rows]
                first += heads * D
            what = f"rank={rank}, P={P}, H={H}, G={G}, D={D}"
            yield what, list(qkv_rows(rank, P, H, G, D)), right


def check_top_p(top_p: Callable) -> Iterator[Case]:
    """top_p(probs, p): the distribution after the cut, summing to 1."""
    rng = np.random.default_rng(0)
    rows = [np.array([0.5, 0.3, 0.2]), np.array([0.25] * 4), np.array([0.1, 0.6, 0.1, 0.2])]
    rows += [rng.dirichlet(np.ones(50) * 0.2) for _ in range(3)]
    one, none = np.ones(1), np.zeros(1)
    for row in rows:
        for p in (0.05, 0.5, 0.65, 0.9, 1.0):
            logits = np.log(row)[None]
            right = ops.sampling_probabilities(logits, one, none.astype(int), one * p, none)[0]
            yield f"p = {p} of {np.round(row, 3).tolist()}", np.asarray(top_p(row.copy(), p)), right


def check_flatten(flatten: Callable) -> Iterator[Case]:
    """flatten(new, before): positions, query_starts and context_lens of a batch."""
    batches = ([5, 3], [0, 0]), ([1, 1, 1], [9, 0, 4]), ([7, 1, 2], [0, 31, 5]), ([4], [2])
    for new, before in batches:
        positions, starts, lens = flatten(list(new), list(before))
        pairs = list(zip(new, before, strict=True))
        what = f"new={new}, before={before}: "
        yield what + "positions", list(positions), [p for n, b in pairs for p in range(b, b + n)]
        yield what + "query_starts", list(starts), [sum(new[:i]) for i in range(len(new) + 1)]
        yield what + "context_lens", list(lens), [n + b for n, b in pairs]


def check_characters(characters: Callable) -> Iterator[Case]:
    """characters(pieces): text as soon as it is certain, for each piece of UTF-8 bytes."""
    texts = ("Zoë 𝄞 €", (1, 1, 1)), ("naïve", (3, 2)), ("日本語", (2, 2, 2, 2)), ("a", (1,))
    for text, sizes in texts:
        data, pieces = text.encode(), []
        for size in sizes:
            pieces.append(data[:size])
            data = data[size:]
        pieces += [bytes([byte]) for byte in data]
        right, seen = [], b""
        for piece in pieces:
            shown = len(seen.decode(errors="ignore"))
            seen += piece
            right.append(seen.decode(errors="ignore")[shown:])
        yield f"characters({pieces})", list(characters(iter(pieces))), right


# -- Kernels --------------------------------------------------------------------------------------


def check_multiply(multiply: Any) -> Iterator[Case]:
    """multiply(x, factor): in place, for any length and any grid."""
    for length, grid in ((1, 1), (31, 1), (257, 4), (1000, 3), (5000, 3)):
        x = np.arange(length, dtype=np.float32)
        report = simulate(multiply, grid, 64, (x, np.float32(3)))
        what = f"{length} elements, a grid of {grid} blocks of 64"
        yield f"{what}: x", x, 3 * np.arange(length)
        yield f"{what}: sectors", report.global_sectors, report.ideal_sectors


def check_turn(turn: Any) -> Iterator[Case]:
    """turn(x, y): the transpose by a tile of 4 KiB without conflicts."""
    for rows, columns in ((32, 32), (64, 96), (33, 70)):
        x = np.random.default_rng(0).normal(size=(rows, columns)).astype(np.float32)
        y = np.full((columns, rows), np.nan, np.float32)
        report = simulate(turn, (-(-columns // 32), -(-rows // 32)), (32, 32), (x, y))
        what = f"x [{rows}, {columns}]"
        yield f"{what}: y", y, x.T
        yield f"{what}: bytes of shared memory", report.shared_bytes, 32 * 32 * 4
        yield f"{what}: longest queue at a bank", _ways(report), 1
        if rows % 32 == columns % 32 == 0:
            yield f"{what}: sectors", report.global_sectors, report.ideal_sectors


def check_warp_argmax(warp_argmax: Any) -> Iterator[Case]:
    """warp_argmax(x, out): the first place of the largest element, in registers."""
    rng = np.random.default_rng(0)
    rows = [np.array([2.0]), np.zeros(32), -np.ones(7), np.arange(20.0), np.arange(32.0)[::-1]]
    rows += [rng.integers(-3, 3, length) for length in (2, 17, 31, 32, 32, 32)]
    for row in rows:
        x, out = np.asarray(row, np.float32), np.full(1, -1, np.int32)
        report = simulate(warp_argmax, 1, 32, (x, out))
        what = f"x = {row.astype(int).tolist()}"
        yield f"{what}: out", int(out[0]), int(x.argmax())
        yield f"{what}: requests to shared memory", report.shared_requests, 0


def _ways(report: Report) -> int:
    return max((line.max_bank_ways for line in report.lines), default=0)


CHECKS: dict[str, Callable[[Callable], Iterator[Case]]] = {
    name.removeprefix("check_"): function
    for name, function in dict(globals()).items()
    if name.startswith("check_")
}


def first_failure(name: str, function: Callable) -> str | None:
    """Return the first wrong case in words, or None."""
    try:
        for what, given, right in CHECKS[name](function):
            if not _equal(given, right):
                return f"{what}\n  gives     {given!r}\n  should be {right!r}"
    except Exception as failure:  # whatever a first attempt raises
        return f"{type(failure).__name__}: {failure}"
    return None


def _equal(given: Any, right: Any) -> bool:
    if not isinstance(right, np.ndarray):
        return bool(given == right)
    given = np.asarray(given, np.float64)
    return given.shape == right.shape and np.allclose(given, right, rtol=1e-9, atol=1e-12)


def main() -> None:
    """Check one file."""
    parser = argparse.ArgumentParser(description="Check a solution of an exercise.")
    parser.add_argument("name", choices=sorted(CHECKS))
    parser.add_argument("file", type=Path)
    arguments = parser.parse_args()
    function = runpy.run_path(str(arguments.file)).get(arguments.name)
    if function is None:
        sys.exit(f"{arguments.file} defines no function {arguments.name}")
    failure = first_failure(arguments.name, function)
    if failure:
        sys.exit(f"{arguments.name} is not right yet:\n{failure}")
    print(f"{arguments.name} is right")


if __name__ == "__main__":
    main()
