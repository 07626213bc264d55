"""Kernels as they are written elsewhere, to be run as they are."""
