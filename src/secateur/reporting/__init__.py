"""What was done to a model, told to a person: before and after in turns, and a report layer by layer."""

from secateur.reporting._benchmark import Benchmark, benchmark
from secateur.reporting._report import report
from secateur.reporting._told import Curve, Histogram, LayerTold, Pixels, Way
from secateur.reporting._value import Report

__all__ = ["Benchmark", "Curve", "Histogram", "LayerTold", "Pixels", "Report", "Way", "benchmark", "report"]
