"""The bundled model's workshop: its stories, tokenizer, training program and recall evaluation.

The generator (:mod:`~llm_numba.train.words` to :mod:`~llm_numba.train.dataset`) and the
evaluation (:mod:`~llm_numba.train.recall`) need only the base install. Training itself, started
by ``python -m llm_numba.train``, needs the extra ``train`` (PyTorch).
"""
