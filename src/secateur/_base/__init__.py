"""What every room stands on: errors, types, zeros, shards, and the door to the compiled kernels."""
