"""``llm-numba generate``: go on with one text, or with many as one batch."""

import json
import time
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from typer import Argument, Option

from llm_numba.cli.console import write
from llm_numba.cli.options import (
    EngineOptions,
    ModelOptions,
    RankOptions,
    SamplingOptions,
    takes_groups,
)
from llm_numba.cli.prompts import as_text, read_prompts
from llm_numba.cli.stats import print_batch, print_request
from llm_numba.cli.transcript import Transcript
from llm_numba.errors import SamplingParamsError

if TYPE_CHECKING:
    from llm_numba.engine import LLM, RequestOutput, SamplingParams
    from llm_numba.engine.inputs import Prompt

_PROMPT, _OUTPUT = "Prompt (none: standard input)", "Output"


@takes_groups
def generate(
    *,
    words: Annotated[
        list[str] | None,
        Argument(metavar="PROMPT", help="One or more prompts.", show_default=False),
    ] = None,
    prompt: Annotated[
        list[str] | None,
        Option("--prompt", "-p", help="A prompt; may be repeated.", rich_help_panel=_PROMPT),
    ] = None,
    file: Annotated[
        Path | None,
        Option("--file", "-f", help="A file that is one prompt.", rich_help_panel=_PROMPT),
    ] = None,
    prompts_file: Annotated[
        Path | None, Option(help="A file with one prompt a line.", rich_help_panel=_PROMPT)
    ] = None,
    prompt_tokens: Annotated[
        list[str] | None,
        Option(
            metavar="IDS",
            help="A prompt as token ids, 1,2,3; may be repeated.",
            rich_help_panel=_PROMPT,
        ),
    ] = None,
    n: Annotated[
        int, Option("--n", "-n", help="Completions of each prompt.", rich_help_panel=_OUTPUT)
    ] = 1,
    echo: Annotated[
        bool, Option("--echo", help="Write the prompt first.", rich_help_panel=_OUTPUT)
    ] = False,
    as_json: Annotated[
        bool,
        Option("--json", help="Write a JSON object per prompt.", rich_help_panel=_OUTPUT),
    ] = False,
    logprobs: Annotated[
        int | None,
        Option(help="With --json: so many likeliest tokens a step.", rich_help_panel=_OUTPUT),
    ] = None,
    stats: Annotated[
        bool, Option("--stats", help="Say on stderr how fast it was.", rich_help_panel=_OUTPUT)
    ] = False,
    sampling: SamplingOptions,
    model: ModelOptions,
    engine: EngineOptions,
    ranks: RankOptions,
) -> None:
    """Go on with a text, token by token.

    Several prompts run as one batch; their completions are written one after another.
    """
    with ranks.join() as mesh:
        if not mesh.is_leader:
            model.load(mesh=mesh, **engine.arguments()).follow()
            return
        prompts = read_prompts([*(words or []), *(prompt or [])], file, prompts_file, prompt_tokens)
        sampling.check(n=n, logprobs=logprobs)
        if logprobs is not None and not as_json:
            raise SamplingParamsError(
                f"--logprobs={logprobs} has nowhere to be written.",
                "Add --json, which writes them.",
            )
        with model.load(mesh=mesh, **engine.arguments()) as llm:
            params = sampling.params(llm, n=n, logprobs=logprobs)
            write_answers(llm, prompts, params, as_json=as_json, echo=echo, stats=stats)


def write_answers(
    llm: "LLM",
    prompts: list["Prompt"],
    params: "SamplingParams",
    *,
    as_json: bool,
    echo: bool,
    stats: bool,
) -> None:
    """Go on with all prompts and write what comes.

    Parameters
    ----------
    llm : LLM
        The model.
    prompts : list of (str or list of int)
        The batch.
    params : SamplingParams
        For all of them.
    as_json, echo, stats : bool
        What to write.

    Raises
    ------
    LLMNumbaError
        Of a request that failed, once the others are written.
    """
    begin = time.perf_counter()
    if as_json:
        outputs = llm.generate(prompts, params)
        for output in outputs:
            write(json.dumps(asdict(output), ensure_ascii=False, default=str) + "\n")
    else:
        outputs = stream(llm, prompts, params, echo=echo)
    seconds = time.perf_counter() - begin
    if stats and len(outputs) == 1:
        print_request(outputs[0])
    elif stats:
        print_batch(outputs, seconds, llm.stats())
    for output in outputs:
        if output.error is not None:  # the others have been written
            raise output.error


def stream(
    llm: "LLM", prompts: list["Prompt"], params: "SamplingParams", *, echo: bool = False
) -> list["RequestOutput"]:
    """Write completions to stdout while they grow: text, or token ids of a model without any.

    Parameters
    ----------
    llm : LLM
        The model.
    prompts : list of (str or list of int)
        The batch.
    params : SamplingParams
        For all of them.
    echo : bool
        Write each completion's prompt before it.

    Returns
    -------
    list of RequestOutput
        One per prompt, in their order.
    """
    # Checked here, before a heading is written.
    chunks = llm.stream(prompts, params)
    transcript = Transcript([as_text(prompt) for prompt in prompts], params.n, echo=echo)
    # Requests are numbered as they first speak up, and they do so in the order of the prompts.
    numbers: dict[object, int] = {}
    outputs: dict[int, RequestOutput] = {}
    try:
        for chunk in chunks:
            number = numbers.setdefault(chunk.request_id, len(numbers))
            finished = chunk.finish_reason is not None
            text = chunk.text if llm.has_tokenizer else as_text(chunk.token_ids)
            transcript.add(number, chunk.index, text, finished=finished)
            if chunk.output is not None:
                outputs[number] = chunk.output
    finally:
        # After Ctrl-C too: the shell's prompt belongs on a line of its own.
        transcript.end_line()
    return [outputs[number] for number in range(len(prompts))]
