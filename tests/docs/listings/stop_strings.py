from llm_numba.engine.stopping import StopStrings

watch = StopStrings(["The end"])
for text in ("Then th", "ey sat. T", "hey ate. The", " en", "d. Goodbye"):
    shown, found = watch.push(text, last=False)
    print(f"in {text!r:16} shown {shown!r:14} found {found!r}")
