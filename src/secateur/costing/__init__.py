"""What a model costs: parameters, multiplications, bytes, memory, time and an estimate of energy, per layer."""

from secateur.costing._call import Call, call_of, on_device
from secateur.costing._cost import KINDS, Cost, LayerCost
from secateur.costing._count import cost, count
from secateur.costing._energy import ADD, DRAM, MULTIPLY, SRAM, energy
from secateur.costing._latency import Latency, clock_of, forward, latency, layer_latencies, milliseconds, serving
from secateur.costing._reasons import why_no_faster

__all__ = [
    "ADD",
    "DRAM",
    "KINDS",
    "MULTIPLY",
    "SRAM",
    "Call",
    "Cost",
    "Latency",
    "LayerCost",
    "call_of",
    "clock_of",
    "cost",
    "count",
    "energy",
    "forward",
    "latency",
    "layer_latencies",
    "milliseconds",
    "on_device",
    "serving",
    "why_no_faster",
]
