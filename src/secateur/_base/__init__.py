"""What every room stands on: errors, types, zeros, shards, files, text, and the door to the compiled kernels."""
