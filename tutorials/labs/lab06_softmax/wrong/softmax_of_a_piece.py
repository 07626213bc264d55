"""Each block divides by the sum of its own piece."""
# Rejected: step 4, "is right for numbers of any size": wrong


@cuda.jit
def softmax_join(x, tops, totals, y):
    row = cuda.blockIdx.y
    top, total = tops[row, cuda.blockIdx.x], totals[row, cuda.blockIdx.x]
    base = top if top > NOTHING else float32(0)
    inverse = float32(1) / total if total > float32(0) else float32(0)
    begin = cuda.blockIdx.x * CHUNK
    for n in range(begin + cuda.threadIdx.x, min(begin + CHUNK, x.shape[1]), THREADS):
        y[row, n] = math.exp(x[row, n] - base) * inverse
