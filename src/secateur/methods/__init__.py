"""Every published method, one file each: a factory named after the paper's acronym returns a `Method` value.

Files in this folder never import one another. Adding a method is one file and one line below.
"""

from __future__ import annotations

from secateur.axes import speaking
from secateur.methods._agp import agp
from secateur.methods._apoz import apoz
from secateur.methods._auto_prune import auto_prune
from secateur.methods._binarise import binarise
from secateur.methods._c_obs import c_obs
from secateur.methods._channel_lasso import channel_lasso
from secateur.methods._chita import chita
from secateur.methods._class_blind import class_blind
from secateur.methods._cnip import cnip
from secateur.methods._deep_r import deep_r
from secateur.methods._density_diversity import density_diversity
from secateur.methods._depth import depth
from secateur.methods._dns import dns
from secateur.methods._dsr import dsr
from secateur.methods._edge_popup import edge_popup
from secateur.methods._erk import erk
from secateur.methods._espn import espn
from secateur.methods._filter_skeleton import filter_skeleton
from secateur.methods._force import force, iter_snip
from secateur.methods._forgetting import forgetting
from secateur.methods._fpgm import fpgm
from secateur.methods._gcs import gcs
from secateur.methods._granet import granet
from secateur.methods._grasp import grasp
from secateur.methods._group_brain_damage import group_brain_damage
from secateur.methods._group_fisher import group_fisher
from secateur.methods._hashed import hashed
from secateur.methods._heads import heads
from secateur.methods._igq import igq
from secateur.methods._inbound import inbound
from secateur.methods._intra_kernel import intra_kernel
from secateur.methods._isometry import isometry
from secateur.methods._ista_bn import ista_bn
from secateur.methods._itop import itop
from secateur.methods._karnin import karnin
from secateur.methods._kernel_sparsity_entropy import kernel_sparsity_entropy
from secateur.methods._kron_obs import kron_obs
from secateur.methods._l0 import l0
from secateur.methods._l1_filters import l1_filters
from secateur.methods._l1_penalty import l1_penalty
from secateur.methods._l_obs import l_obs
from secateur.methods._lamp import lamp
from secateur.methods._lc import lc
from secateur.methods._learning_neurons import learning_neurons
from secateur.methods._low_rank import low_rank
from secateur.methods._lwc import lwc
from secateur.methods._magnitude import magnitude
from secateur.methods._matrix_similarity import matrix_similarity
from secateur.methods._mlprune import mlprune
from secateur.methods._movement import movement, soft_movement
from secateur.methods._n_of_m import n_of_m
from secateur.methods._narang import narang
from secateur.methods._nisp import nisp
from secateur.methods._ntk_sap import ntk_sap
from secateur.methods._ntt import ntt
from secateur.methods._obc import obc
from secateur.methods._obd import obd
from secateur.methods._obs import obs
from secateur.methods._osscar import osscar
from secateur.methods._phew import phew
from secateur.methods._probabilistic import probabilistic
from secateur.methods._prospr import prospr
from secateur.methods._random import random
from secateur.methods._reduce_and_reuse import reduce_and_reuse
from secateur.methods._rigl import rigl
from secateur.methods._sbp_sr import sbp_sr
from secateur.methods._set import set_
from secateur.methods._skeletonization import skeletonization
from secateur.methods._slimming import slimming
from secateur.methods._slot_machines import slot_machines
from secateur.methods._smart_ratio import smart_ratio
from secateur.methods._snfs import snfs
from secateur.methods._snip import snip
from secateur.methods._snip_it import snip_it
from secateur.methods._soft_filters import soft_filters
from secateur.methods._soft_weight_sharing import soft_weight_sharing
from secateur.methods._sparse_factors import sparse_factors
from secateur.methods._sparsegpt import sparsegpt
from secateur.methods._ssl import ssl
from secateur.methods._structured_snip import structured_snip
from secateur.methods._supermask import supermask
from secateur.methods._synflow import synflow
from secateur.methods._taylor import taylor
from secateur.methods._taylor_weights import taylor_weights
from secateur.methods._thinet import thinet
from secateur.methods._trained_quantisation import trained_quantisation
from secateur.methods._variational_dropout import variational_dropout
from secateur.methods._wanda import wanda
from secateur.methods._weight_elimination import weight_elimination
from secateur.methods._wood_fisher import wood_fisher

# fmt: off
__all__ = [
    "agp", "apoz", "auto_prune", "binarise", "c_obs", "channel_lasso", "chita", "class_blind", "cnip", "deep_r",
    "density_diversity", "depth", "dns", "dsr", "edge_popup", "erk", "espn", "filter_skeleton", "force",
    "forgetting", "fpgm", "gcs", "granet", "grasp", "group_brain_damage", "group_fisher", "hashed", "heads", "igq",
    "inbound", "intra_kernel", "isometry", "ista_bn", "iter_snip", "itop", "karnin", "kernel_sparsity_entropy",
    "kron_obs", "l0", "l1_filters", "l1_penalty", "l_obs", "lamp", "lc", "learning_neurons", "low_rank", "lwc",
    "magnitude", "matrix_similarity", "mlprune", "movement", "n_of_m", "narang", "nisp", "ntk_sap", "ntt", "obc",
    "obd", "obs", "osscar", "phew", "probabilistic", "prospr", "random", "reduce_and_reuse", "rigl", "sbp_sr",
    "set_", "skeletonization", "slimming", "slot_machines", "smart_ratio", "snfs", "snip", "snip_it",
    "soft_filters", "soft_movement", "soft_weight_sharing", "sparse_factors", "sparsegpt", "ssl", "structured_snip",
    "supermask", "synflow", "taylor", "taylor_weights", "thinet", "trained_quantisation", "variational_dropout",
    "wanda", "weight_elimination", "wood_fisher",
]
# fmt: on

for _name in __all__:
    globals()[_name] = speaking(globals()[_name])
