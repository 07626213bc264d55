"""Kernels written with `numba.cuda`, each a twin of a function in :mod:`llm_numba.reference`."""
