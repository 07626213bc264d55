"""A step written down as numbers, by whoever schedules, for whoever computes."""

from collections.abc import Callable

import numpy as np

from llm_numba.engine.decode_graphs import DecodeGraphs, Mode, RowInputs
from llm_numba.engine.request import Sequence
from llm_numba.engine.sampler import is_eager
from llm_numba.engine.step import Step
from llm_numba.engine.step_inputs import StepInputs, batch_inputs, sampling_inputs
from llm_numba.models import Decoder


class StepWriter:
    """Writes steps down: where there are graphs, those in which everybody decodes as rows of them.

    Parameters
    ----------
    model : Decoder
    decode : DecodeGraphs or None
        What computes such steps; None where there is no GPU.
    """

    def __init__(self, model: Decoder, decode: DecodeGraphs | None) -> None:
        self._decode = decode
        self._fuses = model.execution.fuse_sampling
        self._vocab_size = model.config.vocab_size
        self._samplers: list[Sequence] = []  # of the last rows
        self._mode: Mode = "sample"  # what they ask for

    def write(
        self, step: Step, sources: dict[Sequence, int], take_copies: Callable[[], np.ndarray]
    ) -> StepInputs | RowInputs:
        """Write down a step.

        Parameters
        ----------
        step : step.Step
        sources : dict of Sequence to int
            In which row the step before sampled a sequence's token that is in flight.
        take_copies : callable() -> int32 [C, 2]
            Returns the copies of :class:`.StepInputs`; comes last, so that no failure loses them.

        Returns
        -------
        StepInputs or RowInputs
        """
        works, samplers = step.works, step.samplers
        decodes = step.num_tokens == len(works) and samplers == [w.sequence for w in works]
        if self._decode is None or not decodes:
            asked = sampling_inputs(works, sources, self._vocab_size)
            return StepInputs(batch_inputs(works, sources), asked, take_copies())
        if samplers != self._samplers:
            self._samplers, self._mode = samplers, self._mode_of(samplers)
        bucket, words = self._decode.lay_out(works, sources)
        asked = None
        if self._mode == "logits":
            asked = sampling_inputs(works, sources, self._vocab_size)
        return RowInputs(bucket, self._mode, words, len(works), asked, take_copies())

    def forget(self) -> None:
        """Forget the sequences of the last step, as after a failure."""
        self._samplers = []
        if self._decode is not None:
            self._decode.forget()

    def _mode_of(self, samplers: list[Sequence]) -> Mode:
        if not self._fuses or any(map(is_eager, samplers)):
            return "logits"
        return "argmax" if all(each.request.params.greedy for each in samplers) else "sample"
