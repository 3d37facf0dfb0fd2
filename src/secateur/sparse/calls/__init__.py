"""The doors to the kernels: autograd functions over native products."""
