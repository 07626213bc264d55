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
    """No model answers to the given name or path."""


class ConfigError(LLMNumbaError):
    """A model's ``config.json`` is missing, unreadable or asks for what we do not have."""


class CheckpointError(LLMNumbaError):
    """Weight files are missing, damaged, or do not fit the configuration."""


class TokenizerError(LLMNumbaError):
    """The tokenizer is missing or malformed."""


class ChatTemplateError(LLMNumbaError):
    """The chat template is missing, malformed, or refuses the conversation."""


class PromptError(LLMNumbaError, ValueError):
    """A prompt is empty, too long, or holds ids outside the vocabulary."""


class SamplingParamsError(LLMNumbaError, ValueError):
    """A sampling parameter is outside its range."""


class DeviceError(LLMNumbaError):
    """The requested device or number format cannot be had here."""


class KernelArgumentError(LLMNumbaError, ValueError):
    """An argument of a kernel has the wrong rank, shape, dtype, layout, device or value."""


class LaunchError(LLMNumbaError, ValueError):
    """A launch does not fit the hardware or the kernel."""


class CompileError(LLMNumbaError):
    """A kernel does not compile for a compute capability."""


class CacheError(LLMNumbaError):
    """The KV cache is too small for what is asked of it."""


class EngineError(LLMNumbaError):
    """The engine cannot go on, or is used in a way that it does not allow."""


class ParallelError(LLMNumbaError):
    """Ranks do not fit together, cannot reach each other, or one of them has failed."""


class DependencyError(LLMNumbaError):
    """An optional package is needed and not installed."""
