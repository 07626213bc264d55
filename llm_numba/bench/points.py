"""All that ``llm-numba bench kernels`` runs, in the order of the record."""

from llm_numba.bench import points_products, points_rows, points_tokens

POINTS = points_rows.POINTS + points_products.POINTS + points_tokens.POINTS
