"""The inner numbers are brought together before the second product: right, but more is sent."""
# Rejected: step 3, "needs one all-reduce": all_reduce of 48


def mlp(comm, x, up, up_bias, down, down_bias):
    begin, end = share(len(up), comm.size, comm.rank)
    inner = np.zeros((len(x), len(up)), np.float32)
    inner[:, begin:end] = gelu(column_parallel(x, up[begin:end], up_bias[begin:end]))
    comm.all_reduce(inner)
    return row_parallel(comm, inner[:, begin:end], down[:, begin:end], down_bias)
