"""One's own model before and after, timed in turns, with the verdict in words."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn
from torch.utils._pytree import tree_flatten

from secateur._base.arguments import if_sparsified, require_model
from secateur._base.behind import catch_up
from secateur._base.errors import SecateurError
from secateur.costing import Call, Latency, call_of, count, serving, why_no_faster
from secateur.masks import unwrap
from secateur.reporting._sampled import sampled, size
from secateur.sparse import Choice, report_of
from secateur.turns import verdict_of

__all__ = ["Benchmark", "benchmark", "reason"]


@dataclass(frozen=True)
class Benchmark:
    """A model before and after, timed in turns in eval mode without gradients; `print` it.

    Attributes:
        before: seconds of a forward of the first model.
        after: seconds of a forward of the second.
        ratio: after / before, the median over groups of turns of the ratio of their best times.
        spread: how far the groups' ratios lie from that at most, as a share of it.
        certain: whether the order of the two is beyond the noise of the measurement.
        bytes_before: of the first model's parameters and buffers.
        bytes_after: of the second's, with the indices of weights that are stored sparse.
        why: why the second is no faster; "" where it is.
    """

    before: Latency
    after: Latency
    ratio: float
    spread: float
    certain: bool
    bytes_before: int
    bytes_after: int
    why: str = ""

    @property
    def speedup(self) -> float:
        """How many times as fast the second is: above 1 where it is faster."""
        return 1 / self.ratio

    @property
    def verdict(self) -> str:
        """The outcome in words."""
        said = f"{self.speedup:.2f}x"
        if self.certain and self.ratio < 1:
            return f"{said} faster, certain (± {self.spread:.0%})"
        order = "certain" if self.certain else "within the noise"
        return f"no faster here ({said} ± {self.spread:.0%}, {order}), because {self.why}"

    def __str__(self) -> str:
        share = self.bytes_after / max(1, self.bytes_before)
        return "\n".join(
            [
                f"before: {self.before}, {self.bytes_before:,} bytes",
                f"after:  {self.after}, {self.bytes_after:,} bytes ({share:.1%})",
                self.verdict,
            ]
        )


def benchmark(model: nn.Module, fast: nn.Module, inputs: Any, *, seconds: float = 2.0) -> Benchmark:
    """Time a model before and after, in turns, and say whether it became faster here.

    ratio = t_fast / t_model, where the times are those of forwards in eval mode without gradients, A B, A B, …, so
    that a busy moment of the machine hits both. The order is certain where ratio · (1 ± spread) does not reach 1.

    Args:
        model: the model before.
        fast: the one after: sparsified, shrunk, held, or any other with the same outputs' shapes.
        inputs: what both are called with: a tensor, a tuple of arguments, or a mapping of named ones.
        seconds: about how long to measure for; at least eight turns.

    Returns:
        The times with their spread, the ratio, bytes, and a verdict in words. Both models, their modes and torch's
        random state are as before afterwards.

    Raises:
        SecateurError: a model that does not run with these inputs, or outputs of different shapes.

    >>> import torch
    >>> net, x = nn.Sequential(nn.Linear(8, 64), nn.ReLU(), nn.Linear(64, 2)), torch.zeros(4, 8)
    >>> found = benchmark(net, nn.Linear(8, 2), x, seconds=0.05)
    >>> found.bytes_before, found.bytes_after
    (2824, 72)
    """
    require_model(model, "benchmark(model, fast, inputs)")
    require_model(fast, "benchmark(model, fast, inputs)")
    require_seconds(seconds)
    call = call_of(inputs)
    for each in (model, fast):
        catch_up(unwrap(each))
    with serving(model, fast):
        _require_alike(_shapes("model", model, call), _shapes("fast", fast, call))
    times = sampled({"before": model, "after": fast}, call, seconds)
    found = verdict_of((times["before"], times["after"]))
    after = Latency.of(times["after"])
    why = "" if found.second_is_faster else reason(model, fast, call, after.seconds)
    sizes = size(model), size(fast)
    return Benchmark(Latency.of(times["before"]), after, found.ratio, found.spread, found.certain, *sizes, why)


def require_seconds(seconds: object) -> None:
    """Refuse what is no time to measure for."""
    if isinstance(seconds, bool) or not isinstance(seconds, int | float) or not 0 < seconds < float("inf"):
        raise SecateurError(f"`seconds` must be a time above 0, got {seconds!r}.")


def reason(model: nn.Module, fast: nn.Module, call: Call, seconds: float) -> str:
    """Say why a model is no faster than another, as far as counting and timing its layers tells.

    Args:
        model: the model before.
        fast: the one after.
        call: what both are called with.
        seconds: that a forward of the one after takes.
    """
    fast, model = unwrap(fast), unwrap(model)
    if if_sparsified(fast) or hasattr(fast, "sparse_report"):
        return _of_sparse(fast)
    try:
        before, after = count(model, call), count(fast, call)
    except SecateurError:
        return "it takes as long, and what it costs could not be counted"
    if before.macs and after.macs == before.macs:
        zeros = sum(int((p == 0).sum()) for p in fast.parameters())
        share = zeros / max(1, sum(p.numel() for p in fast.parameters()))
        dense = (
            f": {share:.0%} of its parameters are zero, and a dense product takes a zero for a number like any other"
        )
        return f"all multiplications stayed{dense if share >= 0.005 else ''}"
    return why_no_faster(fast, call, before, after, seconds)


def _of_sparse(fast: nn.Module) -> str:
    try:
        report = report_of(fast)
    except ValueError:
        return "its sparse layers take as long as dense ones do here"
    sparse = [line for line in report.layers if line.choice is Choice.SPARSE]
    if not sparse:
        line = next((line for line in report.layers if line.kept < line.numel), None)
        return f"no layer runs sparse here ({line.name}: {line.reason})" if line else "no layer has anything pruned"
    return f"the {len(sparse)} of {len(report.layers)} layers that run sparse take as long as dense ones do here"


def _shapes(name: str, model: nn.Module, call: Call) -> tuple[list[Any], Any]:
    try:
        leaves, shape = tree_flatten(model(*call.inputs, **call.kwargs))
    except Exception as problem:  # whatever a user's forward raises
        raise SecateurError(
            f"`inputs` must be what both models are called with, but the forward of `{name}` raised "
            f"{type(problem).__name__}: {problem}. Several arguments go into a tuple, named ones into a mapping."
        ) from problem
    return [tuple(leaf.shape) if isinstance(leaf, Tensor) else type(leaf).__name__ for leaf in leaves], shape


def _require_alike(one: tuple[list[Any], Any], other: tuple[list[Any], Any]) -> None:
    if one != other:
        raise SecateurError(
            f"`fast` must compute what `model` does, but their outputs differ in shape: {one[0]} of `model`, "
            f"{other[0]} of `fast`. Pass the model that `fast` was made from."
        )
