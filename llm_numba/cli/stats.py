"""The lines that ``--stats`` prints on stderr."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from llm_numba.cli.console import notes, styled

if TYPE_CHECKING:
    from llm_numba.engine import EngineStats, RequestOutput


def print_request(output: "RequestOutput") -> None:
    """Print how long a request's prompt and its answers took.

    Parameters
    ----------
    output : RequestOutput
        A finished request.
    """
    metrics = output.metrics
    computed = metrics.num_prompt_tokens - metrics.num_cached_tokens
    prompt = f"prompt {metrics.num_prompt_tokens:,} tokens"
    if metrics.num_cached_tokens:
        prompt += f" ({metrics.num_cached_tokens:,} from the cache)"
    prompt += f", {computed:,} in {1000 * metrics.time_to_first_token:.1f} ms"
    answer = f"generated {metrics.num_generated_tokens:,} tokens"
    if metrics.num_generated_tokens > 1:
        answer += f" at {metrics.decode_tokens_per_second:,.0f} tokens/s"
    _print(f"{prompt} · {answer}")


def print_batch(outputs: Sequence["RequestOutput"], seconds: float, stats: "EngineStats") -> None:
    """Print the tokens of a batch and its rate over the whole run.

    Parameters
    ----------
    outputs : sequence of RequestOutput
        The finished requests.
    seconds : float
        Wall time of the run.
    stats : EngineStats
        Of the engine behind it.
    """
    prompt = sum(output.metrics.num_prompt_tokens for output in outputs)
    generated = sum(output.metrics.num_generated_tokens for output in outputs)
    _print(
        f"{len(outputs):,} requests · {prompt:,} prompt tokens · {generated:,} generated in"
        f" {seconds:.2f} s · {generated / seconds:,.0f} tokens/s over all"
    )
    _print(
        f"{stats.num_steps:,} steps · {stats.num_tokens / max(1, stats.num_steps):,.1f} tokens a"
        f" step · {stats.prefix_hit_rate:.1%} of the prompts from the cache · {stats.kv_waste:.1%}"
        f" of the slots empty · {stats.num_preemptions:,} pre-emptions"
    )


def _print(line: str) -> None:
    notes().print(styled(line, "dim"), soft_wrap=True)
