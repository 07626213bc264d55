# Gaussian blur of an image, 16 x 16 tiles with a halo, helpers from another file twice over.
import helpers as h
from numba import cuda, float32

from .helpers import clamp

TILE = 16
RADIUS = 2
PADDED = TILE + 2 * RADIUS


@cuda.jit
def blur(img, out, sigma):
    tile = cuda.shared.array((PADDED, PADDED), float32)
    tx, ty = cuda.threadIdx.x, cuda.threadIdx.y
    x0 = cuda.blockIdx.x * TILE - RADIUS
    y0 = cuda.blockIdx.y * TILE - RADIUS
    height, width = img.shape
    for dy in range(ty, PADDED, TILE):
        for dx in range(tx, PADDED, TILE):
            tile[dy, dx] = img[clamp(y0 + dy, 0, height - 1), clamp(x0 + dx, 0, width - 1)]
    cuda.syncthreads()

    x, y = cuda.grid(2)
    if x >= width or y >= height:
        return
    acc = 0.0
    norm = 0.0
    for dy in range(-RADIUS, RADIUS + 1):
        for dx in range(-RADIUS, RADIUS + 1):
            weight = h.gaussian(float(dx * dx + dy * dy), sigma)
            acc += weight * tile[ty + RADIUS + dy, tx + RADIUS + dx]
            norm += weight
    out[y, x] = acc / norm
