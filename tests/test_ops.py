"""One name per operation: each has its twins, and a call goes to the one where its array lies."""

import inspect

import numpy as np
import pytest

from llm_numba import ops, reference
from llm_numba.runtime import kind_of, to_device, to_host

# What is computed once, while a model loads, or judges others and is called by no model.
ON_THE_HOST = {
    "RopeScaling",
    "philox_uniform",
    "rope_attention_factor",
    "rope_frequencies",
    "rope_tables",
    "sample",
    "sampling_probabilities",
}
# For those who look on.
WATCHING = {"Call", "watch"}
TWINS = sorted(set(ops.__all__) - ON_THE_HOST - WATCHING)


@pytest.mark.parametrize("name", sorted(ON_THE_HOST))
def test_what_only_the_host_computes_is_the_references_own(name):
    assert getattr(ops, name) is getattr(reference, name)


@pytest.mark.parametrize("name", TWINS)
def test_twins_take_the_same_operands_in_the_same_order(name):
    """A launcher may take more (where the result goes, a stream), and by name only."""
    on_host = inspect.signature(getattr(reference, name)).parameters
    on_device = inspect.signature(getattr(ops, name).on_device()).parameters
    shared, own = list(on_device)[: len(on_host)], list(on_device.values())[len(on_host) :]
    assert shared == list(on_host)
    for parameter, twin in zip(on_host.values(), on_device.values(), strict=False):
        assert (parameter.kind, parameter.default) == (twin.kind, twin.default)
    assert all(parameter.kind is parameter.KEYWORD_ONLY for parameter in own)


def test_a_call_goes_where_its_first_array_lies():
    x = np.linspace(-1, 1, 64, dtype=np.float32).reshape(2, 32)
    weight = np.ones(32, np.float32)
    here = ops.rms_norm(x, weight, 1e-5)
    there = ops.rms_norm(to_device(x, "sim"), to_device(weight, "sim"), 1e-5)
    assert (kind_of(here), kind_of(there)) == ("host", "sim")
    np.testing.assert_allclose(to_host(there), here, atol=1e-6)


def test_an_operation_has_the_docstring_of_its_meaning():
    assert inspect.getdoc(ops.linear) == inspect.getdoc(reference.linear)
    assert inspect.signature(ops.linear) == inspect.signature(reference.linear)
