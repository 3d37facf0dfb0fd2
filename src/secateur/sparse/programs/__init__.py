"""What a model computes, read as a list of operations that the compiled step knows."""
