__global__ void saxpy(int n, float a,
                      const float *x,
                      const float *y, float *z) {
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i < n)
        z[i] = a * x[i] + y[i];
}

// float *x, *y, *z;
// cudaMalloc(&x, n * sizeof(float)); ...
// cudaMemcpy(x, host_x, n * sizeof(float),
//            cudaMemcpyHostToDevice); ...
// saxpy<<<4, 256>>>(n, 2.0f, x, y, z);
