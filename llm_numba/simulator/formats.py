"""What tensor cores see of the numbers that they are given, and what becomes of sums."""

import numpy as np

# Of float32 they take sign, exponent and the upper 10 bits of the fraction: "tf32".
_TF32 = np.uint32(0xFFFFE000)


def as_multiplied(elements: np.ndarray) -> np.ndarray:
    """Widen operands to float64; exact, but for float32, of which the lower bits are cut off.

    Parameters
    ----------
    elements : array of float16, uint16 (bfloat16), float32, int8 or 8-bit floats

    Returns
    -------
    float64 array
    """
    if elements.dtype == np.uint16:  # bfloat16 is the upper half of a float32
        elements = (elements.astype(np.uint32) << 16).view(np.float32)
    elif elements.dtype == np.float32:
        elements = (elements.view(np.uint32) & _TF32).view(np.float32)
    return elements.astype(np.float64)


def rounded_sums(sums: np.ndarray, dtype: np.dtype) -> np.ndarray:
    """Round float64 sums to what they are kept in; integers, which are exact, wrap around."""
    return sums.astype(np.int64).astype(dtype) if dtype.kind == "i" else sums.astype(dtype)
