# How many steps a point takes to leave the circle of radius 2, in complex numbers.
from numba import cuda


@cuda.jit(device=True)
def escape_time(c, max_iters):
    z = 0.0j
    for i in range(max_iters):
        z = z * z + c
        if z.real * z.real + z.imag * z.imag >= 4:
            return i
    return max_iters


@cuda.jit
def mandelbrot(min_x, max_x, min_y, max_y, image, iters):
    height, width = image.shape
    dx = (max_x - min_x) / width
    dy = (max_y - min_y) / height
    start_x, start_y = cuda.grid(2)
    step_x, step_y = cuda.gridsize(2)
    for x in range(start_x, width, step_x):
        for y in range(start_y, height, step_y):
            image[y, x] = escape_time(complex(min_x + x * dx, min_y + y * dy), iters)
