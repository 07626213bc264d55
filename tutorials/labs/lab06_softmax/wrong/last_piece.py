"""The last piece is taken for a whole one."""
# Rejected: step 4, "is right for numbers of any size": OutOfBoundsError


@cuda.jit
def softmax_parts(x, tops, totals):
    warp_tops = cuda.shared.array(WARPS, float32)
    warp_totals = cuda.shared.array(WARPS, float32)
    piece, row = cuda.blockIdx.x, cuda.blockIdx.y
    begin = piece * CHUNK
    end = begin + CHUNK
    top, total = part_of_block(x, row, begin, end, warp_tops, warp_totals)
    if cuda.threadIdx.x == 0:
        tops[row, piece] = top
        totals[row, piece] = total
