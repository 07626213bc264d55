import numpy as np

from llm_numba.parallel import run_ranks


def program(ranks):
    x = np.float32([1, 2]) * 10**ranks.rank
    everything = ranks.all_gather(x)
    return everything, ranks.all_reduce(x)


for rank, (everything, total) in enumerate(run_ranks(3, program)):
    print(f"rank {rank}: all_gather {everything}, all_reduce {total}")
