"""Which weight of a dense layer is which of a sparse one, in the order in which the kernels want them."""

from secateur.sparse.plans._convolution import ConvolutionPlan, Geometry, geometry_of, plan_convolution
from secateur.sparse.plans._half import PAIRED, HalfPlan, half_of, paired_of
from secateur.sparse.plans._linear import (
    BLOCK_COLUMNS,
    BLOCK_ROWS,
    LayerPlan,
    NativeChain,
    layer_of,
    native_chain,
    plan_layer,
    whole_blocks,
)
from secateur.sparse.plans._places import LayerPlaces, ListedPlaces, Places, floats
from secateur.sparse.plans._recurrent import RecurrentPlan, plan_recurrent
from secateur.sparse.plans._survivors import Survivors, places_of

__all__ = [
    "BLOCK_COLUMNS",
    "BLOCK_ROWS",
    "PAIRED",
    "ConvolutionPlan",
    "Geometry",
    "HalfPlan",
    "LayerPlaces",
    "LayerPlan",
    "ListedPlaces",
    "NativeChain",
    "Places",
    "RecurrentPlan",
    "Survivors",
    "floats",
    "geometry_of",
    "half_of",
    "layer_of",
    "native_chain",
    "paired_of",
    "places_of",
    "plan_convolution",
    "plan_layer",
    "plan_recurrent",
    "whole_blocks",
]
