from llm_numba.engine.decode_graphs import all_buckets, bucket_of
from llm_numba.engine.decode_rows import Bucket

largest = Bucket(rows=64, width=64)  # 64 sequences of up to 1024 tokens, in blocks of 16
for sequences, tokens in [(1, 20), (3, 300), (5, 300), (33, 1000)]:
    rows, width = bucket_of(sequences, -(-tokens // 16), largest)
    words = Bucket(rows, width).num_words
    print(f"{sequences:2} sequences, the longest of {tokens:4} tokens: "
          f"{rows:2} rows of {width:2} blocks, {4 * words:5} bytes")  # fmt: skip
print(len(all_buckets(largest)), "buckets")
