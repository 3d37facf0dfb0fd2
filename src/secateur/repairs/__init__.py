"""What survivors do after the cut, from evidence: repairs for a method, and the arithmetic of one layer's matrix.

| repair | what it does | needs |
|---|---|---|
| `least_squares_on` | the best weights on what each row keeps | inputs |
| `sweep` | inputs to the right make up for each cut | inputs |
| `released` | L-OBS's update as it was released | inputs |
| `reestimate_norms` | running statistics of batch norms anew | inputs |
| `then` | several one after the other | |
"""

from __future__ import annotations

from secateur.repairs._choice import Greedy, OneByOne, Swept
from secateur.repairs._exact import Trace, exact_removal, released_removal
from secateur.repairs._norms import Chain, ReestimateNorms, reestimate_norms, then
from secateur.repairs._second_moments import damped, error_of, least_squares
from secateur.repairs._solve import Reconstruct, Solver, least_squares_on, released, sweep
from secateur.repairs._sweep import column_sweep, inverse_factor

__all__ = [
    "Chain",
    "Greedy",
    "OneByOne",
    "Reconstruct",
    "ReestimateNorms",
    "Solver",
    "Swept",
    "Trace",
    "column_sweep",
    "damped",
    "error_of",
    "exact_removal",
    "inverse_factor",
    "least_squares",
    "least_squares_on",
    "reestimate_norms",
    "released",
    "released_removal",
    "sweep",
    "then",
]
