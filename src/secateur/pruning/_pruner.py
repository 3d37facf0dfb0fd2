"""Methods that act while you train: a `Pruner` follows its schedule on the optimizer's step, in any loop."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from types import TracebackType
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from secateur._base.behind import catch_up, follow
from secateur._base.errors import EarlyFinishWarning, SecateurError
from secateur._base.zeros import all_true
from secateur.axes import Method, Moment, all_alive
from secateur.holding import Hold, hold
from secateur.masks import Masks, Only, layouts, prunable, unwrap
from secateur.measures import Batch, Loss, Measure, gather
from secateur.pruning._choose import choose, report_empty
from secateur.pruning._evidence import Training
from secateur.pruning._gates import Gates
from secateur.pruning._prune import reusable
from secateur.pruning._refusals import (
    refuse_closure,
    refuse_in_training,
    refuse_other_arguments,
    refuse_unscorable,
    report_left_out,
    why_not_elsewhere,
)


class Pruner:
    """Prune during training: `hold` with a schedule.

    After every optimizer step whose number is a milestone of the method's schedule, the weights are scored, weights go
    (or, where the method says so, others come back), and the zeros are held from then on. Methods with gates put them
    on the model and train them along. Your loop does not change; `finish` returns the masks.

    Evidence comes from the gradients of the training steps, as they are before the masks cut them, or, with `batches`,
    from batches of your choice run through the model at each milestone (the model is then left as found). Evidence
    that adds up over steps (`measures.fisher`, `measures.grad_average`) does so from the first step on.

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
        refuse_other_arguments(model, method, "Pruner(model, method)")
        self.method = method
        self._network = unwrap(model)
        self._params = prunable(self._network, only, biases=method.structure.biases)
        refuse_unscorable(self._params)
        refuse_in_training(method, with_batches=batches is not None)
        if only is None:
            report_left_out(self._network, self._params)
        self._batches = reusable(batches)
        self._loss = loss
        self._generator = generator
        self._allow_empty = allow_empty
        self._step = 0
        self._training = Training(self._network, method, self._params, generator) if batches is None else None
        self._gates: Gates | None = None
        self._cut: dict[str, tuple[int, Tensor, Tensor]] = {}
        self._hold: Hold = hold(model, Masks(all_alive(self._params)), on_step=self._after_step)
        remembers = self._training is not None and self._training.remembers
        self._hold.before_step = self._before_step if remembers else None
        self._hold.refuses = why_not_elsewhere(method, remembers=remembers)
        try:
            if method.relax is not None:
                self._gates = Gates(self._network, self._params, method.relax, generator)
            self._act_before_the_first_step()
        except BaseException:
            self.release()
            raise
        self._ask()

    @property
    def masks(self) -> Masks:
        """The masks as they stand: what is held, or what the gates keep."""
        return self._hold.masks if self._gates is None else self._gates.masks()

    @property
    def step(self) -> int:
        """How many optimizer steps have been seen."""
        return self._step

    def adopt(self, optimizer: Optimizer) -> None:
        """Put the gates' parameters into groups of their own in `optimizer`, with the options that the gates name.

        For methods with gates that want other options than the weights (no weight decay, say). Call it right after the
        optimizer was made, before schedulers and before its state is loaded. Without gates it does nothing.
        """
        if self._gates is not None:
            self._gates.adopt(optimizer)

    def parameters(self) -> list[nn.Parameter]:
        """The gates' own parameters, for an optimizer of their own. Empty where the method has no gates."""
        return [] if self._gates is None else self._gates.parameters()

    def finish(self) -> Masks:
        """Stop: fold gates away, let the method repair the survivors, write the zeros, and return the masks.

        The weights obey the masks, whatever was loaded or swapped in between. Warns (`EarlyFinishWarning`) if the
        schedule's last milestone has not been reached.
        """
        catch_up(self._network)
        masks = self.masks
        self._warn_if_early(masks)
        if self._gates is not None:
            report_empty(masks, allow_empty=self._allow_empty)
            masks = self._gates.fold()
            self._gates = None
        self._hold.release()
        if self.method.repair is not None:
            moment = self._moment(self._step, self.method.density, masks)
            moment = replace(moment, evidence=self._for_repair())
            self.method.repair(self._network, masks, moment)
        masks.apply_(self._network)
        follow(self._network)
        return masks

    def release(self) -> None:
        """Stop without a result: hooks and gates go, the weights stay as they are. Twice is fine."""
        self._hold.release()
        if self._gates is not None:
            self._gates.remove()
            self._gates = None

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint needs: step, masks, running evidence and the generator, as tensors and numbers only.

        Gates belong to the model: their state is in the model's own `state_dict`.
        """
        evidence = {} if self._training is None else self._training.state_dict()
        state: dict[str, Any] = {"step": self._step, "masks": dict(self._hold.masks), "evidence": evidence}
        if self._generator is not None:
            state["generator"] = self._generator.get_state()
        return state

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from `state_dict()`: masks, evidence, random state and schedule go on where they were.

        Before or after the model's and the optimizer's own state is loaded: what this Pruner cut when it was made is
        given back, unless the weights have been loaded since.
        """
        self._check_state(state)
        masks = Masks(state["masks"])
        masks.check(self._network)
        untouched = [name for name, (version, _, _) in self._cut.items() if self._params[name]._version == version]
        if self._training is not None:
            self._training.load_state_dict(state.get("evidence", {}))
        self._step = int(state["step"])
        self._ask()
        self._hold.replace(masks, forget=False)
        self._give_back(untouched)
        if self._generator is not None and "generator" in state:
            self._generator.set_state(state["generator"])

    def __enter__(self) -> Pruner:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()

    # What happens when

    def _act_before_the_first_step(self) -> None:
        """Act at step 0, and remember what that cut: a checkpoint that is loaded next was not cut by it."""
        before = {name: p.detach().clone() for name, p in self._params.items()} if self._acts_at(0) else {}
        self._act(0)
        for name, old in before.items():
            pruned = ~self._hold.masks[name]
            if bool(pruned.any()):
                self._cut[name] = (self._params[name]._version, pruned, old[pruned])

    def _give_back(self, names: Iterable[str]) -> None:
        with torch.no_grad():
            for name in names:
                _, pruned, values = self._cut[name]
                self._params[name][pruned] = values
        self._cut.clear()
        self._hold.project()

    def _before_step(self, closure: bool) -> None:
        # Evidence that adds up is of the weights that the gradients belong to: those before the optimizer's step.
        if self._training is not None:
            refuse_closure(self.method.name, closure)
            self._training.update(self._hold.gradients())

    def _after_step(self, _: int) -> None:
        self._cut.clear()
        self._step += 1
        if self._gates is not None:
            self._gates.after_step()
        self._act(self._step)
        self._ask()

    def _ask(self) -> None:
        """Have the dense gradients of the coming step copied, if somebody will look at them."""
        milestone = self._acts_at(self._step + 1)
        self._hold.ask(self._training is not None and self._training.wants_gradients(milestone=milestone))

    def _acts_at(self, step: int) -> bool:
        return self.method.score is not None and self.method.relax is None and self.method.schedule(step) is not None

    def _act(self, step: int) -> None:
        if not self._acts_at(step):
            return
        catch_up(self._network)
        milestone = self.method.schedule(step)
        density = None if milestone is None else milestone.density
        moment = self._moment(step, density, self._hold.masks)
        moment = replace(moment, evidence=self._evidence(moment))
        last = step >= self.method.schedule.milestones[-1].step
        masks = Masks(choose(self.method, moment, last=last), copy=False)
        report_empty(masks, allow_empty=self._allow_empty)
        if self.method.repair is not None and self.method.repair.always:
            self.method.repair(self._network, masks, moment)
        self._hold.replace(masks)

    def _moment(self, step: int, density: float | None, alive: Mapping[str, Tensor]) -> Moment:
        here = {name: alive[name].to(parameter.device) for name, parameter in self._params.items()}
        turned = layouts(self._network, self._params)
        return Moment(step, density, self._params, here, generator=self._generator, layouts=turned)

    def _evidence(self, moment: Moment) -> dict[str, dict[str, Tensor]]:
        untouched = all(all_true(bits) for bits in moment.alive.values())
        start = self.method.regrow.start if untouched and self.method.regrow is not None else None
        if self._training is None:
            measures = self.method.measures if start is None else [measure for _, measure in start.measures]
            return self._gathered(measures)
        if start is not None:
            return self._training.start(tuple(measure for _, measure in start.measures))
        return self._training.compute(self._hold.gradients())

    def _gathered(self, measures: Sequence[Measure]) -> dict[str, dict[str, Tensor]]:
        return gather(
            self._network, self._batches, measures, params=self._params, loss=self._loss, generator=self._generator
        )

    def _for_repair(self) -> dict[str, dict[str, Tensor]]:
        measures = () if self.method.repair is None else self.method.repair.measures
        return self._gathered(measures) if measures else {}

    def _warn_if_early(self, masks: Masks) -> None:
        last = self.method.schedule.milestones[-1].step
        if self._step < last:
            wanted = "" if self.method.density is None else f", not {self.method.density:g}"
            warnings.warn(
                f"finish() after {self._step} optimizer steps, but the schedule of {self.method.name} ends at step "
                f"{last}: density is {masks.density:.3g}{wanted}.",
                EarlyFinishWarning,
                stacklevel=3,
            )

    def _check_state(self, state: Mapping[str, Any]) -> None:
        if not {"step", "masks"} <= set(state) <= {"step", "masks", "evidence", "generator"}:
            raise SecateurError(
                "A Pruner's state has the keys 'step' and 'masks', and 'evidence' and 'generator' where it has some, "
                f"got {sorted(state)}."
            )
        if "generator" in state and self._generator is None:
            raise SecateurError(
                "This state holds the random state of a generator, and this Pruner has none: pass "
                "generator=torch.Generator() to the Pruner that continues."
            )
