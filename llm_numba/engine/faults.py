"""What the GPU's libraries raise, as the engine's own error."""

import contextlib
import traceback
from collections.abc import Iterator

from llm_numba.errors import EngineError, LLMNumbaError
from llm_numba.runtime import gpu_is_lost

# Not all of them export their errors' classes.
_LIBRARIES = ("cupy", "cupy_backends", "cuda", "numba")


@contextlib.contextmanager
def reported(work: str) -> Iterator[None]:
    """Turn an error of the GPU into an :class:`EngineError` that has it as its cause.

    Some errors of a kernel (an illegal address, for one) ruin what the driver keeps of the
    process: each call fails from then on. The remedy says so.

    Parameters
    ----------
    work : str
        What failed, for the message: "a step".

    Raises
    ------
    EngineError
    """
    try:
        yield
    except LLMNumbaError:
        raise
    except Exception as error:
        if type(error).__module__.partition(".")[0] not in _LIBRARIES:
            raise
        # Whoever keeps the error must not keep the arrays of the functions that it came through.
        traceback.clear_frames(error.__traceback__)
        if isinstance(error, MemoryError):
            raise EngineError(
                f"The GPU has not enough memory for {work}: {_first_line(error)}",
                "Lower max_num_batched_tokens, max_num_seqs or the size of the KV cache.",
            ) from error
        remedy = "Send the requests again; `llm-numba doctor` shows what works here."
        if gpu_is_lost():
            remedy = "Start a new process: in this one nothing works on the GPU any more."
        raise EngineError(f"The GPU failed in {work}: {_first_line(error)}", remedy) from error


def _first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
