"""Errors that a user can do something about.

Each is one sentence of cause and one of remedy. The command line prints both without a traceback
and exits with code 2; a program catches :class:`LLMNumbaError`, or the subclass it can mend.
"""


class LLMNumbaError(Exception):
    """A mistake in the input or the set-up, with what to do about it.

    Parameters
    ----------
    cause : str
        What is wrong, naming the file, field or value.
    remedy : str
        What to do about it.
    """

    def __init__(self, cause: str, remedy: str) -> None:
        super().__init__(cause, remedy)
        self.cause = cause
        self.remedy = remedy

    def __str__(self) -> str:
        return f"{self.cause} {self.remedy}"


class ModelNotFoundError(LLMNumbaError):
    """No model answers to the given name or path.

    Raised before anything is loaded: by ``LLM(...)`` and by each command that takes ``--model``.
    """


class ConfigError(LLMNumbaError):
    """A model's ``config.json`` is missing, unreadable or asks for what we do not have.

    Raised while a model is opened, and where its sizes cannot be divided among ranks. What is not
    understood is refused: a value that was passed over would make a model that talks nonsense.
    """


class CheckpointError(LLMNumbaError):
    """Weight files are missing, damaged, or do not fit the configuration.

    Raised while weights are loaded, and while shards are written or read.
    """


class TokenizerError(LLMNumbaError):
    """The tokenizer is missing or malformed.

    Raised when text comes in, or is looked for, and the model has nothing to read it with. Such a
    model still takes token ids.
    """


class ChatTemplateError(LLMNumbaError):
    """The chat template is missing, malformed, or refuses the conversation.

    Raised by ``LLM.chat`` and ``llm-numba chat``. Templates are programs that came with a
    checkpoint: they run in a sandbox, and one that reaches out of it, or does not come to an end,
    is refused.
    """


class PromptError(LLMNumbaError, ValueError):
    """A prompt is empty, too long, or holds ids outside the vocabulary.

    Raised when requests come in; those that run already are not disturbed.
    """


class SamplingParamsError(LLMNumbaError, ValueError):
    """A sampling parameter is outside its range.

    Raised by ``SamplingParams(...)``, or where it meets a model that it does not suit.
    """


class DeviceError(LLMNumbaError):
    """The requested device or number format cannot be had here.

    Raised when a device is chosen, by a program, an option or a launch. ``llm-numba doctor`` says
    what is missing.
    """


class KernelArgumentError(LLMNumbaError, ValueError):
    """An argument of a kernel has the wrong rank, shape, dtype, layout, device or value.

    Raised by launchers, before anything runs: a kernel would read outside its arrays.
    """


class LaunchError(LLMNumbaError, ValueError):
    """A launch does not fit the hardware or the kernel.

    Raised before a launch: CUDA's own answer would come later and not say which number it was.
    """


class CompileError(LLMNumbaError):
    """A kernel does not compile for a compute capability.

    Raised where kernels are compiled without a GPU: ``make test-ptx`` and
    ``llm-numba bench resources``.
    """


class CacheError(LLMNumbaError):
    """The KV cache is too small for what is asked of it.

    Raised when an engine is built, for the longest sequence, and when requests come in.
    """


class EngineError(LLMNumbaError):
    """The engine cannot go on, or is used in a way that it does not allow.

    Raised when an engine is built on too little memory, and when a step fails. Then the requests of
    that step are lost, and the engine can be used again, unless the remedy says otherwise.
    """


class ParallelError(LLMNumbaError):
    """Ranks do not fit together, cannot reach each other, or one of them has failed.

    Raised on every rank, so that none waits for ever; the first of them prints it.
    """


class DependencyError(LLMNumbaError):
    """An optional package is needed and not installed.

    Raised when it is first needed, never by an import.
    """
