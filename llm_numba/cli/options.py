"""Options that several commands take, as groups.

A group is a dataclass whose fields are Typer options; a command names it as the type of one
parameter and :func:`takes_groups` spreads it out for Typer, which knows single options only::

    @app.command()
    @takes_groups
    def chat(model: ModelOptions, sampling: SamplingOptions, *, stats: bool = False): ...
"""

import functools
import inspect
from collections.abc import Callable
from dataclasses import dataclass, fields, is_dataclass
from inspect import Parameter
from typing import TYPE_CHECKING, Annotated, Any

from typer import Option

from llm_numba.cli.console import loading_bar, notes, styled, waiting

if TYPE_CHECKING:
    from llm_numba.engine import LLM, SamplingParams
    from llm_numba.parallel import Mesh

_MODEL, _ENGINE = "Model", "Engine"
_RANKS = "Ranks (started with mpirun -n, as many as TP times PP)"
_SAMPLING = "Sampling (unset: the model's own defaults)"


@dataclass(frozen=True)
class ModelOptions:
    """Which model to load, where, and the memory to give it."""

    model: Annotated[
        str,
        Option(
            "--model",
            "-m",
            help="Bundled name, directory, hub id, or random:SHAPE.",
            rich_help_panel=_MODEL,
        ),
    ] = "storyteller"
    device: Annotated[
        str,
        Option(
            help="auto, cpu, cuda, or sim: the GPU's kernels in the simulator. auto: cuda if it"
            " works, else cpu.",
            rich_help_panel=_MODEL,
        ),
    ] = "auto"
    dtype: Annotated[
        str | None,
        Option(
            help="Number format: float32, float64 (cpu), float16, bfloat16 (cuda, sim). Unset:"
            " float32, or on cuda that of the weights if it has 16 bits.",
            rich_help_panel=_MODEL,
        ),
    ] = None
    block_size: Annotated[
        int, Option(help="Tokens in a block of the KV cache.", rich_help_panel=_MODEL)
    ] = 16
    num_blocks: Annotated[
        int | None,
        Option(help="Blocks of the KV cache; unset: as many as needed.", rich_help_panel=_MODEL),
    ] = None
    gpu_memory_utilization: Annotated[
        float | None,
        Option(
            help="Part of the GPU's memory to take at most; unset: 0.9 of what is free.",
            rich_help_panel=_MODEL,
        ),
    ] = None
    gpu_memory_gb: Annotated[
        float | None,
        Option(help="The same in GiB.", rich_help_panel=_MODEL),
    ] = None
    max_model_len: Annotated[
        int | None,
        Option(help="Longest sequence; unset: the model's context.", rich_help_panel=_MODEL),
    ] = None

    def load(self, **more: Any) -> "LLM":
        """Load the model, with a progress bar if it takes long.

        Parameters
        ----------
        **more
            Further options of :class:`~llm_numba.LLM`.
        """
        from llm_numba.engine import LLM

        with loading_bar(self.model) as progress:
            llm = LLM(
                self.model,
                device=self.device,
                dtype=self.dtype,
                block_size=self.block_size,
                num_blocks=self.num_blocks,
                gpu_memory_utilization=self.gpu_memory_utilization,
                gpu_memory_gb=self.gpu_memory_gb,
                max_model_len=self.max_model_len,
                progress=progress,
                **more,
            )
        if llm.device == "cuda" and llm.leads:  # the others follow
            with waiting("Making kernels ready; a first time compiles them"):
                _compile_kernels(llm)
        return llm


@dataclass(frozen=True)
class EngineOptions:
    """How requests run together."""

    max_num_seqs: Annotated[
        int | None,
        Option(help="Sequences that run at a time; unset: 64.", rich_help_panel=_ENGINE),
    ] = None
    max_num_batched_tokens: Annotated[
        int | None,
        Option(help="Tokens a step, pieces of prompts included.", rich_help_panel=_ENGINE),
    ] = None
    enable_prefix_caching: Annotated[
        bool,
        Option(
            "--prefix-caching/--no-prefix-caching",
            help="Keep what was computed for prompts that begin alike.",
            rich_help_panel=_ENGINE,
        ),
    ] = True
    enforce_eager: Annotated[
        bool,
        Option("--enforce-eager", help="On a GPU: no CUDA graphs.", rich_help_panel=_ENGINE),
    ] = False
    persistent: Annotated[
        bool,
        Option(
            "--persistent",
            help="On a GPU: decode a sequence that is alone by one kernel a step.",
            rich_help_panel=_ENGINE,
        ),
    ] = False
    batch_invariant: Annotated[
        bool,
        Option(
            "--batch-invariant",
            help="The same bits alone and in any batch; slower.",
            rich_help_panel=_ENGINE,
        ),
    ] = False

    def arguments(self, **defaults: Any) -> dict[str, Any]:
        """Return what was set here as arguments of :class:`~llm_numba.LLM`.

        Parameters
        ----------
        **defaults
            For what was left unset.
        """
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        return defaults | {name: value for name, value in values.items() if value is not None}


def _compile_kernels(llm: "LLM") -> None:
    """Run a short prompt and a step, so that nobody takes the compiler's time for the model's."""
    from llm_numba.engine import SamplingParams

    prompt = [0] * min(16, llm.max_model_len - 1)
    if prompt:
        llm.generate([prompt], SamplingParams(max_tokens=2, seed=0, ignore_eos=True))


@dataclass(frozen=True)
class RankOptions:
    """Over how many ranks the model is spread."""

    tp: Annotated[
        int,
        Option(
            "--tp", help="Tensor parallel: ranks that share each layer.", rich_help_panel=_RANKS
        ),
    ] = 1
    pp: Annotated[
        int,
        Option(
            "--pp",
            help="Pipeline parallel: stages of layers, one behind the other.",
            rich_help_panel=_RANKS,
        ),
    ] = 1
    comm: Annotated[
        str,
        Option(
            help="What carries arrays: auto, peer, nccl, mpi, mpi-staged; or FILE.json, a record of"
            " bench comm: the fastest in it.",
            rich_help_panel=_RANKS,
        ),
    ] = "auto"
    verbose: Annotated[
        bool,
        Option(
            "--verbose",
            help="Say what carries arrays, and which products take slower kernels, and why.",
            rich_help_panel=_RANKS,
        ),
    ] = False

    def join(self) -> "Mesh":
        """Meet the other ranks; a program that was started alone is the only one.

        Returns
        -------
        Mesh
            To be used in a ``with`` statement around all that ranks do.
        """
        from llm_numba.parallel import Mesh
        from llm_numba.runtime import listen

        def explain(line: str) -> None:
            notes().print(styled(line, "dim"), soft_wrap=True)

        listener = explain if self.verbose else None
        listen(listener)
        return Mesh(self.tp, self.pp, comm=self.comm, explain=listener)


@dataclass(frozen=True)
class SamplingOptions:
    """How to choose the next token and when to stop."""

    max_tokens: Annotated[
        int | None,
        Option(
            help="Most tokens to generate; unset: until the context is full.",
            rich_help_panel=_SAMPLING,
        ),
    ] = None
    temperature: Annotated[
        float | None,
        Option(help="Divides the logits; 0 takes the likeliest token.", rich_help_panel=_SAMPLING),
    ] = None
    top_k: Annotated[
        int | None,
        Option(help="Keep the k likeliest tokens; 0 keeps all.", rich_help_panel=_SAMPLING),
    ] = None
    top_p: Annotated[
        float | None,
        Option(help="Keep the likeliest tokens that sum to p.", rich_help_panel=_SAMPLING),
    ] = None
    min_p: Annotated[
        float | None,
        Option(
            help="Drop tokens less likely than this share of the likeliest.",
            rich_help_panel=_SAMPLING,
        ),
    ] = None
    repetition_penalty: Annotated[
        float | None,
        Option(help="Above 1: seen tokens become less likely.", rich_help_panel=_SAMPLING),
    ] = None
    presence_penalty: Annotated[
        float | None,
        Option(help="Taken from the logit of generated tokens.", rich_help_panel=_SAMPLING),
    ] = None
    frequency_penalty: Annotated[
        float | None,
        Option(help="The same, once per occurrence.", rich_help_panel=_SAMPLING),
    ] = None
    seed: Annotated[
        int | None, Option(help="Makes sampling repeatable.", rich_help_panel=_SAMPLING)
    ] = None
    stop: Annotated[
        list[str] | None,
        Option(help="Stop before this text; may be repeated.", rich_help_panel=_SAMPLING),
    ] = None
    stop_token_ids: Annotated[
        list[int] | None,
        Option(
            "--stop-token-id",
            help="Stop after this token; may be repeated.",
            rich_help_panel=_SAMPLING,
        ),
    ] = None
    ignore_eos: Annotated[
        bool,
        Option(
            "--ignore-eos",
            help="Go on after the end-of-text token.",
            rich_help_panel=_SAMPLING,
        ),
    ] = False

    def check(self, **more: Any) -> None:
        """Refuse values that are out of range, before a large model is loaded in vain.

        Parameters
        ----------
        **more
            Further fields of :class:`~llm_numba.SamplingParams`.
        """
        from llm_numba.engine import SamplingParams

        SamplingParams(**self._given(), **more)

    def params(self, llm: "LLM", **more: Any) -> "SamplingParams":
        """Return the model's own defaults with what was set here in their place.

        Parameters
        ----------
        llm : LLM
            The model.
        **more
            Further fields of :class:`~llm_numba.SamplingParams`.
        """
        return llm.default_sampling_params(**{"max_tokens": None, **self._given(), **more})

    def _given(self) -> dict[str, Any]:
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        # By identity: temperature 0 was set, although 0 == False.
        return {k: v for k, v in values.items() if v is not None and v is not False and v != []}


def takes_groups(command: Callable[..., None]) -> Callable[..., None]:
    """Spread a command's option groups into single options, which is what Typer reads.

    Parameters
    ----------
    command : callable
        A function with parameters whose annotation is an option group.

    Returns
    -------
    callable
        The same command with the groups' fields for parameters.
    """
    groups: dict[str, type] = {}
    parameters: list[Parameter] = []
    for parameter in inspect.signature(command).parameters.values():
        if not is_dataclass(parameter.annotation):
            parameters.append(parameter.replace(kind=Parameter.KEYWORD_ONLY))
            continue
        groups[parameter.name] = parameter.annotation
        parameters += [
            Parameter(f.name, Parameter.KEYWORD_ONLY, default=f.default, annotation=f.type)
            for f in fields(parameter.annotation)
        ]

    @functools.wraps(command)
    def spread(**values: Any) -> None:
        for name, group in groups.items():
            values[name] = group(**{f.name: values.pop(f.name) for f in fields(group)})
        command(**values)

    spread.__signature__ = inspect.Signature(parameters)
    spread.__annotations__ = {p.name: p.annotation for p in parameters}
    return spread
