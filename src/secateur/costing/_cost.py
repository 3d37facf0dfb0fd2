"""What a model costs, as a value that prints as one table."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from secateur.costing._energy import DRAM, energy
from secateur.costing._latency import Latency
from secateur.masks import Masks

__all__ = ["KINDS", "Cost", "LayerCost"]

#: What of a model can be counted, or computed on meta.
KINDS = ("params", "macs", "bytes", "memory")


@dataclass(frozen=True)
class LayerCost:
    """What one module costs, those inside of it not counted.

    Attributes:
        name: its path; "" is the model itself.
        kind: its class.
        params: entries of its parameters; a tied one counts where it is first met.
        macs: multiplications that it adds up in one forward.
        bytes: of its parameters and buffers.
        memory: the most that is alive in the whole forward while it runs; 0 where it makes nothing.
        seconds: median of what it takes; None where it was not timed.
    """

    name: str
    kind: str
    params: int
    macs: int
    bytes: int
    memory: int
    seconds: float | None = None


@dataclass(frozen=True)
class Cost:
    """What a model costs: counted, and measured where it was asked for. `print` it for a table.

    Attributes:
        params: entries of parameters, a tied one once.
        macs: multiplications of one forward on the example that are added up: linear layers, convolutions, matrix
            products, attention and recurrence. What works entry by entry counts nothing, as is the custom.
        bytes: of parameters and buffers.
        memory: bytes alive at the worst moment of a forward without gradients: parameters, buffers, inputs and
            results, computed from when each is made and let go of. What an operation needs inside of itself (a
            convolution's workspace, the gates of an LSTM) is not counted.
        latency: of a forward without gradients, measured; None where it was not.
        operations: how many operations of torch one forward calls.
        layers: the same for each module that has parameters or makes something.
    """

    params: int
    macs: int
    bytes: int
    memory: int
    latency: Latency | None = None
    operations: int = 0
    layers: tuple[LayerCost, ...] = ()

    def of(self, kind: str) -> float:
        """Return one of the totals by its name: "params", "macs", "bytes", "memory" or "ms"."""
        if kind != "ms":
            return {"params": self.params, "macs": self.macs, "bytes": self.bytes, "memory": self.memory}[kind]
        return float("nan") if self.latency is None else self.latency.seconds * 1e3

    def energy(self, *, fetch: float = DRAM, masks: Masks | None = None) -> float:
        """Estimate the joules of one forward on a chip of 2014: every stored word fetched once, every product added.

        An estimate from that year's figures (`energy`), to compare a model before and after. With masks, what they
        prune is neither fetched nor multiplied, and what says where the rest lies is not counted.

        Args:
            fetch: joules to fetch 32 bits, `DRAM` or `SRAM`.
            masks: which weights of 32 bits stay; None for all.
        """
        words, macs = -(-self.bytes // 4), float(self.macs)
        kept: dict[str, list[int]] = {}
        for each in masks.layers() if masks is not None else ():
            words -= each.numel - each.kept
            sums = kept.setdefault(each.name.rpartition(".")[0], [0, 0])
            sums[0], sums[1] = sums[0] + each.kept, sums[1] + each.numel
        for layer in self.layers:
            if layer.name in kept:
                macs -= layer.macs * (1 - kept[layer.name][0] / max(1, kept[layer.name][1]))
        return energy(words, round(macs), fetch=fetch)

    @property
    def summary(self) -> str:
        """The totals in one line."""
        said = f"{self.params:,} parameters, {self.macs:,} MACs, {self.bytes:,} bytes, {self.memory:,} bytes at most"
        return said if self.latency is None else f"{said}, {self.latency}"

    def __str__(self) -> str:
        timed = any(layer.seconds is not None for layer in self.layers)
        heads = ["layer", "kind", "params", "MACs", "bytes", "memory"] + (["ms"] if timed else [])
        rows = [_row(each.name or "(itself)", each.kind, each, each.seconds, timed) for each in self.layers]
        whole = None if self.latency is None else self.latency.seconds
        rows.append(_row("total", "", self, whole, timed))
        lines = _aligned([heads, *rows])
        if self.latency is not None:
            lines.append(f"one forward: {self.latency}")
        return "\n".join(lines)


def _row(name: str, kind: str, cost: Cost | LayerCost, seconds: float | None, timed: bool) -> list[str]:
    numbers = [f"{n:,}" if n else "–" for n in (cost.params, cost.macs, cost.bytes, cost.memory)]
    time = [] if not timed else ["–" if seconds is None else f"{seconds * 1e3:.3f}"]
    return [name, kind, *numbers, *time]


def _aligned(rows: list[list[str]]) -> list[str]:
    widths = [max(len(row[k]) for row in rows) for k in range(len(rows[0]))]
    sides: list[Callable[[str, int], str]] = [str.ljust, str.ljust, *[str.rjust] * (len(widths) - 2)]
    return ["  ".join(side(cell, n) for side, cell, n in zip(sides, row, widths, strict=True)).rstrip() for row in rows]
