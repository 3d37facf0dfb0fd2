"""What survivors do after the cut, from evidence: the arithmetic of reconstruction, on one layer's matrix at a time."""

from __future__ import annotations

from secateur.repairs._exact import Trace, exact_removal
from secateur.repairs._second_moments import damped, error_of, least_squares
from secateur.repairs._sweep import column_sweep, inverse_factor

__all__ = ["Trace", "column_sweep", "damped", "error_of", "exact_removal", "inverse_factor", "least_squares"]
