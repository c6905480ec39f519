"""The CPU backend: NumPy arrays, hot loops compiled by Numba (nogil, cached), one operation per file."""
