"""Networks that a command line names: of the lab, of a run, or made by a function of one's own."""

from __future__ import annotations

from secateur.cli.networks._networks import NAMES, SHRUNK, Network, add_network, fill, made_by, network, run_of, shape

__all__ = ["NAMES", "SHRUNK", "Network", "add_network", "fill", "made_by", "network", "run_of", "shape"]
