from llm_numba.models import IncrementalDetokenizer, Tokenizer, resolve_model

tokenizer = Tokenizer(resolve_model("storyteller"))
token_ids = tokenizer.encode("Zoë has 3 €", add_special_tokens=False)
stream = IncrementalDetokenizer(tokenizer, prompt_token_ids=[])
for token_id in token_ids:
    alone = tokenizer.decode([token_id])
    print(f"token {token_id:4}: alone {alone!r:8} streamed {stream.push(token_id)!r}")
print("at the end:", repr(stream.flush()))
