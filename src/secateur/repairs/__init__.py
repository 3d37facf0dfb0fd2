"""What survivors do after the cut, from evidence: repairs for a method, and the arithmetic of one layer's matrix.

| repair | what it does | needs |
|---|---|---|
| `least_squares_on` | the best weights on what each row keeps | inputs |
| `sweep` | inputs to the right make up for each cut | inputs |
| `released` | L-OBS's update as it was released | inputs |
| `surgeon` | the best weights of a whole small network | labels |
| `rescaled_columns` | one factor for each input that stays (ThiNet) | inputs |
| `mixed_columns` | inputs that are gone as mixtures of those that stay | inputs |
| `weight_removal` | each cut weight's own update by Kronecker factors (MLPrune) | inputs |
| `row_removal` | rows make up for rows that are cut, by Kronecker factors | inputs |
| `LowRank` | each cut weight's own update by blocks of a Fisher matrix (WoodFisher) | labels |
| `Solved` | the values that a measure has solved for (CHITA) | as the measure |
| `matched_moments` | mean and variance of each output as they were (REPAIR) | inputs |
| `reestimate_norms` | running statistics of batch norms anew | inputs |
| `tuned` | a few steps of training on the batches | labels; with blocks inputs |
| `then` | several one after the other | |
"""

from __future__ import annotations

from secateur.repairs._apply import reconstruct
from secateur.repairs._choice import Greedy, OneByOne, Swept
from secateur.repairs._columns import (
    Columns,
    channels_of,
    contributions,
    greedy_columns,
    lasso_columns,
    mixed_columns,
    rescaled_columns,
)
from secateur.repairs._exact import Trace, exact_removal, released_removal
from secateur.repairs._groups import group_removal, support_error
from secateur.repairs._kronecker import Factored, RowCost, WeightCost, row_removal, weight_removal
from secateur.repairs._low_rank import BlockCost, LowRank, block_inverse
from secateur.repairs._norms import Chain, MatchedMoments, ReestimateNorms, matched_moments, reestimate_norms, then
from secateur.repairs._second_moments import damped, error_of, least_squares
from secateur.repairs._solve import LayerByLayer, Reconstruct, Solver, least_squares_on, released, sweep
from secateur.repairs._surgeon import Surgeon, gauss_newton, surgeon, surgery
from secateur.repairs._sweep import column_sweep, inverse_factor
from secateur.repairs._tuned import Tuned, tuned
from secateur.repairs._written import Known, Solved

__all__ = [
    "BlockCost",
    "Chain",
    "Columns",
    "Factored",
    "Greedy",
    "Known",
    "LayerByLayer",
    "LowRank",
    "MatchedMoments",
    "OneByOne",
    "Reconstruct",
    "ReestimateNorms",
    "RowCost",
    "Solved",
    "Solver",
    "Surgeon",
    "Swept",
    "Trace",
    "Tuned",
    "WeightCost",
    "block_inverse",
    "channels_of",
    "column_sweep",
    "contributions",
    "damped",
    "error_of",
    "exact_removal",
    "gauss_newton",
    "greedy_columns",
    "group_removal",
    "inverse_factor",
    "lasso_columns",
    "least_squares",
    "least_squares_on",
    "matched_moments",
    "mixed_columns",
    "reconstruct",
    "reestimate_norms",
    "released",
    "released_removal",
    "rescaled_columns",
    "row_removal",
    "support_error",
    "surgeon",
    "surgery",
    "sweep",
    "then",
    "tuned",
    "weight_removal",
]
