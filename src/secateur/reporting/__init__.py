"""What was done to a model, told to a person: before and after in turns, and a report layer by layer."""

from secateur.reporting._benchmark import Benchmark, benchmark
from secateur.reporting._report import report
from secateur.reporting._told import Histogram, LayerTold, Way
from secateur.reporting._value import Report

__all__ = ["Benchmark", "Histogram", "LayerTold", "Report", "Way", "benchmark", "report"]
