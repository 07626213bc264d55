"""The points of the benchmark of kernels at shapes that the simulator runs at once."""

import dataclasses

from llm_numba.bench.kernel_points import Point
from llm_numba.bench.points import POINTS

# By a ladder's axes. PyTorch wants as many queries as keys where it is causal, and whole pages.
SHAPES = {
    "M N": (5, 272),
    "N": (1000,),
    "N bins": (1000, 16),
    "M N K": (3, 17, 33),
    "M F": (5, 48),
    "N V E": (7, 33, 48),
    "N H D": (7, 3, 32),
    "D G R S T": (32, 2, 3, 37, 37),
    "D G R T E": (32, 2, 3, 37, 48),
    "B V": (40, 300),
    "D G R B T": (32, 2, 3, 4, 48),
}


def small(point: Point) -> Point:
    return dataclasses.replace(point, shape=SHAPES[point.ladder.axes])


def small_point(name: str) -> Point:
    (found,) = (point for point in POINTS if point.name == name)
    return small(found)
