from llm_numba import LLM, LLMNumbaError

for model in ("no-such-model", "tests/golden"):
    try:
        LLM(model)
    except LLMNumbaError as error:
        print(type(error).__name__)
        print("  cause: ", error.cause)
        print("  remedy:", error.remedy)
