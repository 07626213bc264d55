import numpy as np

x = (np.random.default_rng(0).normal(size=4096) + 1e4).astype(np.float32)  # variance 1
exact = x.astype(np.float64)

# Even if both sums were exact, and only their results rounded to float32:
mean, mean_of_squares = np.float32(exact.mean()), np.float32((exact * exact).mean())
print(f"float64:                           {exact.var():.3f}")
print(f"mean of squares less squared mean: {mean_of_squares - mean * mean:.3f}")
print(f"mean of squared distances:         {np.mean((x - mean) ** 2, dtype=np.float64):.3f}")
