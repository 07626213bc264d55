"""Benchmarks: what is measured, how, and the records that the docs and plots are drawn from.

Numbers in prose come from a record in ``docs/results``, written by a command that the record names.
:mod:`.timing` turns samples into medians with their spread, :mod:`.environment` says on what
machine, :mod:`.record` writes the file.
"""
