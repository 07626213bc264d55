"""``llm-numba report``: all that is known of a machine's speed, on one page.

:mod:`.archive` reads a folder of records and says which machine each is of; :mod:`.sections` makes
tables and pictures of them, and names the command where there is no record; :mod:`.page` writes
HTML and Markdown.
"""
