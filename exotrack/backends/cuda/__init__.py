"""The CUDA backend: the operations of `cpu` under the same names, their kernels in the folder `kernels`."""
