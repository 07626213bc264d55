from llm_numba.models import Tokenizer, resolve_model

tokenizer = Tokenizer(resolve_model("storyteller"))
for text in ("the red ball", "Numba", "Zoë", "€"):
    token_ids = tokenizer.encode(text, add_special_tokens=False)
    print(f"{text!r}: {len(text.encode())} bytes -> {len(token_ids)} tokens {token_ids}")
