"""What is often said about models on many GPUs, held against the plan.

Each claim is answered with figures that are worked out here, from shapes, from the kernel table and
from the formulas. So they are as good as those: see the assumptions of the plans.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import ml_dtypes
import numpy as np

from llm_numba.models import ModelConfig, load_config, tensor_shapes
from llm_numba.models.random import resolve_shape
from llm_numba.planner.gpus import LINKS, find_gpu
from llm_numba.planner.plan import Plan, Question, make_plan
from llm_numba.planner.presets import PRESETS
from llm_numba.planner.steps import layer_weights
from llm_numba.planner.table import KernelTable

# Dense float16 with float32 sums, by the NVIDIA Ada GPU architecture white paper.
_TENSOR_TFLOPS = 165
_SEVENTY, _THIRTEEN = "llama-3-70b", "llama-2-13b"


@dataclass(frozen=True)
class Claim:
    """Something that is said, and what the plan says.

    Attributes
    ----------
    words : str
        The claim.
    found : str
        The answer, with figures.
    verdict : str
        In a few words.
    """

    words: str
    found: str
    verdict: str


def answer_claims(table: KernelTable) -> list[Claim]:
    """Work out all answers.

    Parameters
    ----------
    table : KernelTable
        As measured.

    Returns
    -------
    list of Claim
    """
    return [answer_claim(name, table) for name in CLAIMS]


def answer_claim(name: str, table: KernelTable) -> Claim:
    """Work out one answer.

    Parameters
    ----------
    name : str
        A key of :data:`CLAIMS`.
    table : KernelTable
        As measured.

    Returns
    -------
    Claim
    """
    return CLAIMS[name](table)


def _config(name: str) -> ModelConfig:
    return load_config(resolve_shape(name))


def _plan(table: KernelTable, model: str = _SEVENTY, gpu: str = "h100", **asked: object) -> Plan:
    dtype = np.dtype(ml_dtypes.bfloat16)
    return make_plan(Question(_config(model), dtype, find_gpu(gpu), **asked), table)


def _parameters(config: ModelConfig) -> int:
    return sum(map(math.prod, tensor_shapes(config).values()))


def _size_of_70b(table: KernelTable) -> Claim:
    config = _config(_SEVENTY)
    count, E, L = _parameters(config), config.hidden_size, config.num_layers
    wider = 12 * 12288**2 * L
    return Claim(
        "A 70B model has a hidden size of 12,288 and 280 GB of weights in fp16.",
        f"Llama 3 70B has a hidden size of {E:,} and {count / 1e9:.1f} billion parameters: "
        f"{2 * count / 1e9:.0f} GB in 16 bits. {4 * count / 1e9:.0f} GB are float32. Its "
        f"{L} layers at a hidden size of 12,288 and 12 of its squares each would be "
        f"{wider / 1e9:.0f} billion.",
        "refuted: twice too much",
    )


def _twelve_squares(table: KernelTable) -> Claim:
    def squares(name: str) -> str:
        config = _config(name)
        return f"{sum(layer_weights(config)) / config.hidden_size**2:.1f} ({name})"

    names = ("gpt2", _THIRTEEN, _SEVENTY, "llama-3-8b", "llama-3.2-1b")
    return Claim(
        "A layer has about 12 H² parameters: 3 for QKV, 1 for the output, 8 for the MLP.",
        f"Squares of the hidden size in a layer's products: {', '.join(map(squares, names))}. "
        "Grouped KV heads take some off, a third product in a wider MLP puts more on.",
        "a rule of thumb, exact for GPT-2",
    )


def _gather_after_each_product(table: KernelTable) -> Claim:
    config, P = _config(_SEVENTY), 8
    E, F, heads = config.hidden_size, config.intermediate_size, config.num_heads * config.head_dim
    # By a ring, of n numbers an all-gather receives (P - 1)/P n, an all-reduce twice as many.
    gathered = (P - 1) / P * (heads + E + F + E)
    reduced = 2 * 2 * (P - 1) / P * E
    return Claim(
        "An all-gather follows each linear layer.",
        f"It works. For a row and a layer of 70B on {P} ranks each then receives "
        f"{2 * gathered / 1e3:.0f} kB by four all-gathers. Column- and then row-parallel products "
        f"with one all-reduce a block: {2 * reduced / 1e3:.0f} kB by two.",
        f"works, and moves {gathered / reduced:.1f} times as much",
    )


def _micro_batches(table: KernelTable) -> Claim:
    asked = {"tp": 8, "pp": 4, "batch": 32, "context": 4096}
    drained = [_plan(table, micro_batches=M, **asked).drained for M in (1, 4, 16)]
    shown = "; ".join(
        f"M = {each.micro_batches}: a stage waits {each.idle:.0%} of {1e3 * each.seconds:.1f} ms"
        for each in drained
    )
    interleaved = _plan(table, **asked).interleaved
    return Claim(
        "Micro-batches keep all stages of a pipeline busy (GPipe).",
        f"70B by tp=8, pp=4, a token of 32 sequences, rounds drained: {shown}. A stage reads its "
        "weights for each micro-batch again. What helps is to begin the next token of one "
        f"micro-batch while others are under way: {1e3 * interleaved.seconds:.1f} ms with "
        f"M = {interleaved.micro_batches}.",
        "true of prompts; decoding wants interleaved rounds",
    )


def _eight_by_four(table: KernelTable) -> Claim:
    deep = _plan(table, tp=8, pp=4, batch=128, context=4096)
    copy = _plan(table, tp=8, pp=1, batch=32, context=4096)
    rate, copies = (each.tokens_per_second(each.interleaved) for each in (deep, copy))
    gib = deep.fullest.taken / 2**30
    return Claim(
        "70B wants 32 GPUs, 8-way tensor x 4-way pipeline.",
        f"It fits: {gib:.1f} GiB of each H100, with 128 sequences of 4,096 tokens. But eight GPUs "
        f"hold it as well, {copy.fullest.taken / 2**30:.1f} GiB of each with 32 such sequences. "
        f"As one pipeline 32 GPUs make {rate:,.0f} tokens/s, as four copies of tp=8 "
        f"{4 * copies:,.0f}, and no message leaves a host.",
        "fits, and needs a reason: one host is enough",
    )


def _sixty_eight_ms(table: KernelTable) -> Claim:
    plan = _plan(table, **PRESETS["13b-one-by-one"].asked)
    first, step = 1e3 * plan.prompt.seconds, 1e3 * plan.drained.seconds
    in_time = 1 + math.floor((68 - first) / step)
    return Claim(
        "13B on four 24 GB cards answers a 32-token request in 68 ms.",
        f"Reading its weights alone takes {1e3 * plan.weight_floor_seconds:.1f} ms a token on four "
        f"RTX 4090. Planned: {first:.0f} ms to the first token of a prompt of 32, then "
        f"{step:.1f} ms each. An answer of 32 tokens takes {first + 31 * step:.0f} ms; in 68 ms "
        f"there are {in_time}.",
        "not 32 tokens of answer; a prompt of 32, yes",
    )


def _many_requests(table: KernelTable) -> Claim:
    asked = PRESETS["13b-batch"].asked
    rates = {}
    for batch in (1, 32, 64, 128, 256, 512):
        plan = _plan(table, **asked | {"batch": batch})
        rates[batch] = plan.tokens_per_second(plan.drained) / 32
    best = max(rates, key=rates.__getitem__)
    flops = 2 * sum(layer_weights(_config(_THIRTEEN))) * _config(_THIRTEEN).num_layers * 32 * 1200
    return Claim(
        "In batches the same four cards serve 1,200 such requests a second.",
        f"Decoding alone, 32 tokens a request, the plan's best is {rates[best]:.0f} a second, at a "
        f"batch of {best}. 1,200 a second are {1200 * 32:,} tokens a second, for which products "
        f"alone are {flops / 1e12:,.0f} TFLOP/s: {flops / 4e12:,.0f} of each card, whose tensor "
        f"cores promise {_TENSOR_TFLOPS} with float32 sums.",
        "refuted: more than the cards' arithmetic",
    )


def _naive_baseline(table: KernelTable) -> Claim:
    one, many = (_plan(table, **PRESETS[name].asked) for name in ("13b-one-by-one", "13b-batch"))
    rates = [each.tokens_per_second(each.drained) for each in (one, many)]
    return Claim(
        "Sharding, fused attention and KV off-load give 3.5 times the requests of naive fp16.",
        f"On the same four cards, one request after the other: {rates[0]:,.0f} tokens/s. 256 at a "
        f"time: {rates[1]:,.0f}.",
        f"batching alone is {rates[1] / rates[0]:.0f} times: ask what the baseline does",
    )


def _fp8(table: KernelTable) -> Claim:
    plan = _plan(table, tp=8, batch=1, context=2048)
    (_, rank), law = plan.split.outermost[0], plan.table.product(1)
    weights = rank.config.num_layers * sum(layer_weights(rank.config))
    seconds = plan.drained.seconds
    halved = seconds - law.slope * weights / 2
    return Claim(
        "FP8 makes 70B three times as fast.",
        "Weights are half as many bytes. If products of one row took just half as long, a token of "
        f"70B on eight H100 would take {1e3 * halved:.1f} ms in place of {1e3 * seconds:.1f}. More "
        "than twice is out of reach as long as reading them takes the time.",
        f"refuted for decoding: {seconds / halved:.1f} times at best",
    )


def _host_memory(table: KernelTable) -> Claim:
    plan = _plan(table, "llama-3-8b", context=8192)
    config, link = plan.question.config, LINKS["pcie-5"]
    far = 4096 * 2 * config.num_layers * config.num_kv_heads * config.head_dim * 2
    seconds = far / link.bytes_per_second
    return Claim(
        "Keys and values beyond 4k tokens can stay in host memory and be streamed back.",
        f"8B at 8,192 tokens: {far / 1e9:.2f} GB of them for each token of each sequence, "
        f"{1e3 * seconds:.1f} ms at what PCIe 5 promises. A whole step on one H100 is "
        f"{1e3 * plan.drained.seconds:.1f} ms.",
        "right, but a step is then as long as the way over PCIe",
    )


CLAIMS: dict[str, Callable[[KernelTable], Claim]] = {
    "size of 70b": _size_of_70b,
    "twelve squares": _twelve_squares,
    "gather after each product": _gather_after_each_product,
    "micro batches": _micro_batches,
    "eight by four": _eight_by_four,
    "sixty eight ms": _sixty_eight_ms,
    "many requests": _many_requests,
    "naive baseline": _naive_baseline,
    "fp8": _fp8,
    "host memory": _host_memory,
}
