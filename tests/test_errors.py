"""Every error of ours carries a cause and a remedy, wherever it travels."""

import copy
import pickle

import pytest

from llm_numba import LLMNumbaError, errors

each_error = pytest.mark.parametrize(
    "error",
    [value for value in vars(errors).values() if isinstance(value, type)],
    ids=lambda error: error.__name__,
)


@each_error
def test_it_says_the_cause_and_then_the_remedy(error):
    raised = error("The file x is missing.", "Write it.")
    assert isinstance(raised, LLMNumbaError)
    assert (raised.cause, raised.remedy) == ("The file x is missing.", "Write it.")
    assert str(raised) == "The file x is missing. Write it."


@each_error
def test_it_needs_both(error):
    with pytest.raises(TypeError):
        error("The file x is missing.")


@each_error
def test_it_survives_the_way_between_processes(error):
    raised = error("cause", "remedy")
    for twin in (pickle.loads(pickle.dumps(raised)), copy.copy(raised)):
        assert type(twin) is error
        assert (twin.cause, twin.remedy) == ("cause", "remedy")


def test_wrong_arguments_are_value_errors_too():
    assert issubclass(errors.PromptError, ValueError)
    assert issubclass(errors.SamplingParamsError, ValueError)
