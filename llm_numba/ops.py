"""One name per operation: what models speak.

Every array is a NumPy array here, so each operation is the one of
:mod:`llm_numba.reference`. A model that imports ``ops`` names no array library and will not notice
when another set of twins stands behind these names.
"""

from llm_numba.reference import *  # noqa: F403
from llm_numba.reference import __all__ as __all__
