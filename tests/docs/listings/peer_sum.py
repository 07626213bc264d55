import numpy as np

from llm_numba.kernels import peer
from llm_numba.parallel.peer import simulated_links
from llm_numba.runtime import to_device
from llm_numba.runtime.devices import simulate_ranks

links = simulated_links(4)
xs = [to_device(np.float32([1, 1 / 3]) * 100**link.rank, "sim") for link in links]

programs = [
    lambda x=x, link=link: peer.all_reduce(x, link) for x, link in zip(xs, links, strict=True)
]
simulate_ranks(programs, seed=3)

for rank, x in enumerate(xs):
    print(f"rank {rank}: {x}, in bits {x.view(np.uint32)}")
