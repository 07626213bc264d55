"""Kernels with planted faults, a module for each class of fault."""
