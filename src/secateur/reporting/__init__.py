"""What was done to a model, told to a person: before and after in turns, and a report layer by layer."""

from secateur.reporting._benchmark import Benchmark, benchmark

__all__ = ["Benchmark", "benchmark"]
