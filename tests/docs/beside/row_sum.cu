// One block of 256 threads a row.
__global__ void row_sum(int n, const float *x,
                        float *y) {
    __shared__ float parts[8];
    int t = threadIdx.x;
    const float *row = x + (size_t)blockIdx.x * n;
    float total = 0.0f;
    for (int j = t; j < n; j += 256)
        total += row[j];
    for (int d = 16; d > 0; d /= 2)
        total += __shfl_xor_sync(0xffffffff,
                                 total, d);
    if (t % 32 == 0)
        parts[t / 32] = total;
    __syncthreads();
    if (t == 0) {
        total = 0.0f;
        for (int w = 0; w < 8; ++w)
            total += parts[w];
        y[blockIdx.x] = total;
    }
}
