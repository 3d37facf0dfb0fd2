"""Which weight of a dense layer is which of a sparse one: gather, scatter, copy, reduce."""
