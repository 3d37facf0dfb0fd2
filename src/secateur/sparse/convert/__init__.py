"""`sparsify` and `densify`: layer by layer, where it is faster on this machine."""
