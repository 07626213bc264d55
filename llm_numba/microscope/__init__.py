"""What a kernel costs, line by line and step by step: in the terminal and as a picture."""

from llm_numba.microscope.ladders import find_ladder
from llm_numba.microscope.picture import Picture, compare, describe, draw, picture
from llm_numba.microscope.strangers import examine_file, is_file
from llm_numba.microscope.views import Agreement, Examination, View, examine

__all__ = [
    "Agreement",
    "Examination",
    "Picture",
    "View",
    "compare",
    "describe",
    "draw",
    "examine",
    "examine_file",
    "find_ladder",
    "is_file",
    "picture",
]
