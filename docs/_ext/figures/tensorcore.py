"""What the page of the product on tensor cores puts under the microscope."""

import numpy as np
from numba import cuda, uint16

from llm_numba.kernels import ptx
from llm_numba.microscope import Examination, View
from llm_numba.simulator import Report, simulate

_ROWS, _PACKETS = 32, 8


def _report(pitch: int, swizzle: int) -> Report:
    """Simulate a warp that loads the first packets of 32 rows of 64 numbers."""

    @cuda.jit
    def load(out):  # type: ignore[no-untyped-def]
        rows = cuda.shared.array((_ROWS, pitch), uint16)
        lane = cuda.threadIdx.x
        for k in range(pitch):
            rows[lane, k] = uint16(k)
        cuda.syncwarp()
        packet = lane % _PACKETS * swizzle
        out[lane] = ptx.ldmatrix_x4(rows, lane * pitch + packet * 8)[0]

    return simulate(load, 1, _ROWS, (np.zeros(_ROWS, np.uint32),))


def layouts() -> Examination:
    """Look at rows of 128 bytes as they come, with 16 bytes of padding, and swizzled."""
    cases = (("as they come", 64, 0), ("padded", 72, 0), ("swizzled", 64, 1))
    views = (View(name, "", (), (_report(pitch, swizzle),)) for name, pitch, swizzle in cases)
    return Examination("ldmatrix", tuple(views))
