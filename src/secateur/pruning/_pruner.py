"""Methods that act while you train: a `Pruner` follows its schedule on the optimizer's step, in any loop."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator, Mapping
from types import TracebackType
from typing import Any

import torch
from torch import Tensor, nn

from secateur._base.errors import EarlyFinishWarning, SecateurError
from secateur.axes import Method
from secateur.holding import Hold, hold
from secateur.masks import Masks, Only, layouts, prunable, unwrap
from secateur.measures import Batch, Loss, check_online, gather, observe
from secateur.pruning._prune import choose, report_empty


class Pruner:
    """Prune during training: `hold` with a schedule.

    After every optimizer step whose number is a milestone of the method's schedule, the weights are scored, the masks
    tighten, and the zeros are held from then on. Your loop does not change; `finish` returns the masks.

    Evidence comes from the gradients that the training step left behind, or, with `batches`, from batches of your
    choice run through the model at each milestone (the model is then left as found).

    Args:
        model: the network being trained (wrapped or not).
        method: for example `methods.magnitude(density=0.1, schedule=schedule.cubic(0.1, begin=0, end=900, every=100))`.
        batches: evidence to score on; None uses the training gradients.
        loss: (output, target) → scalar, with `batches` only.
        only: which tensors, see `prunable`.
        generator: source of randomness for methods that draw.
        allow_empty: False refuses, at the milestone, masks that empty a layer.

    >>> from secateur import methods, schedule
    >>> model = nn.Linear(8, 2)
    >>> plan = schedule.cubic(0.25, begin=1, end=3, every=1)
    >>> pruner = Pruner(model, methods.magnitude(density=0.25, schedule=plan))
    >>> optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    >>> for _ in range(3):
    ...     optimizer.zero_grad()
    ...     model(torch.ones(1, 8)).sum().backward()
    ...     optimizer.step()
    >>> pruner.finish().kept
    4
    """

    def __init__(
        self,
        model: nn.Module,
        method: Method,
        batches: Iterable[Batch] | None = None,
        *,
        loss: Loss | None = None,
        only: Only = None,
        generator: torch.Generator | None = None,
        allow_empty: bool = True,
    ) -> None:
        if method.regrow is not None:
            raise SecateurError(
                f"{method.name} brings pruned weights back at their old value, which training does not keep. "
                "Prune before training with prune(model, method, batches)."
            )
        if batches is None:
            for _, measure in method.score.measures:
                check_online(measure)
        self.method = method
        self._network = unwrap(model)
        self._params = prunable(self._network, only, biases=method.structure.biases)
        self._layouts = layouts(self._network, self._params)
        self._batches = list(batches) if isinstance(batches, Iterator) else batches
        self._loss = loss
        self._generator = generator
        self._allow_empty = allow_empty
        self._step = 0
        whole = {n: torch.ones_like(p, dtype=torch.bool) for n, p in self._params.items()}
        self._hold: Hold = hold(model, Masks(whole, copy=False), on_step=self._after_step)
        self._act(0)

    @property
    def masks(self) -> Masks:
        """The masks as they stand."""
        return self._hold.masks

    @property
    def step(self) -> int:
        """How many optimizer steps have been seen."""
        return self._step

    def finish(self) -> Masks:
        """Stop holding, let the method repair the survivors, and return the masks.

        Warns (`EarlyFinishWarning`) if the schedule's last milestone has not been reached.
        """
        masks, last = self.masks, self.method.schedule.milestones[-1].step
        if self._step < last:
            warnings.warn(
                f"finish() after {self._step} optimizer steps, but the schedule of {self.method.name} ends at step "
                f"{last}: density is {masks.density:.3g}, not {self.method.density}.",
                EarlyFinishWarning,
                stacklevel=2,
            )
        self._hold.release()
        if self.method.repair is not None:
            self.method.repair(self._network, masks, self._generator)
            masks.apply_(self._network)
        return masks

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint needs: the step count and the masks, as tensors and numbers only."""
        return {"step": self._step, "masks": dict(self.masks)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from `state_dict()`: the masks are held again and the schedule goes on where it was."""
        if set(state) != {"step", "masks"}:
            raise SecateurError(f"A Pruner's state has the keys 'step' and 'masks', got {sorted(state)}.")
        self._hold.replace(Masks(state["masks"]))
        self._step = int(state["step"])

    def __enter__(self) -> Pruner:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._hold.release()

    def _after_step(self, _: int) -> None:
        self._step += 1
        self._act(self._step)

    def _act(self, step: int) -> None:
        milestone = self.method.schedule(step)
        if milestone is None:
            return
        evidence = self._evidence()
        with torch.no_grad():
            found: dict[str, Tensor] = {name: self.method.score(evidence, name) for name in self._params}
        masks = Masks(choose(found, self.method, milestone.density, self.masks, self._layouts), copy=False)
        report_empty(masks, allow_empty=self._allow_empty)
        self._hold.replace(masks)

    def _evidence(self) -> dict[str, dict[str, Tensor]]:
        measures = [measure for _, measure in self.method.score.measures]
        if self._batches is None:
            return observe(self._network, measures, params=self._params, generator=self._generator)
        return gather(
            self._network,
            self._batches,
            measures,
            params=self._params,
            loss=self._loss,
            generator=self._generator,
        )
