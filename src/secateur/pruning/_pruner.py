"""Methods that act while you train: a `Pruner` follows its schedule on the optimizer's step, in any loop."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from types import TracebackType
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from secateur._base.behind import catch_up, follow
from secateur.axes import Method, Moment, all_alive
from secateur.holding import Hold, hold
from secateur.masks import Masks, Only, layouts, prunable, unwrap
from secateur.measures import Batch, Loss
from secateur.pruning._attached import Attached
from secateur.pruning._choose import choose, report_empty
from secateur.pruning._evidence import Sources
from secateur.pruning._gates import Gates
from secateur.pruning._past import Past
from secateur.pruning._prune import reusable
from secateur.pruning._refusals import (
    check_state,
    refuse_closure,
    refuse_in_training,
    refuse_other_arguments,
    refuse_unfit,
    refuse_unscorable,
    report_left_out,
    warn_if_early,
    why_not_elsewhere,
)


class Pruner:
    """Prune during training: `hold` with a schedule.

    After every optimizer step whose number is a milestone of the method's schedule, the weights are scored, weights go
    (or, where the method says so, others come back), and the zeros are held from then on. Methods with gates put them
    on the model and train them along; penalties join the gradients, or act after the step. Your loop does not change;
    `finish` returns the masks.

    Evidence comes from the gradients of the training steps, as they are before the masks cut them, or, with `batches`,
    from batches of your choice run through the model at each milestone (the model is then left as found). Evidence
    that adds up over steps (`measures.fisher`, `measures.grad_average`) does so from the first step on.

    Args:
        model: the network being trained (wrapped or not).
        method: for example `methods.magnitude(density=0.1, schedule=schedule.cubic(0.1, begin=0, end=900, every=100))`.
        batches: evidence to score on; None uses the training gradients. For gates that learn from held-out
            examples: those.
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
        batches = reusable(batches)
        refuse_in_training(method, with_batches=batches is not None)
        refuse_unfit(method, self._network, self._params)
        if only is None:
            report_left_out(self._network, self._params)
        self._generator = generator
        self._allow_empty = allow_empty
        self._step = 0
        self._sources = Sources(self._network, method, self._params, batches, loss, generator)
        self._attached = Attached(self._network, self._params, method)
        self._past = Past()
        self._cut: dict[str, tuple[int, Tensor, Tensor]] = {}
        self._hold: Hold = hold(model, Masks(all_alive(self._params)), on_step=self._after_step)
        self._hold.before_step = self._before_step if self._sources.remember else None
        self._hold.refuses = why_not_elsewhere(method, remembers=self._sources.remember)
        try:
            self._attached.attach(batches, loss, generator)
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

    @property
    def exploration(self) -> float:
        """R_s: the fraction of all prunable weights that has been alive at some step so far (ITOP, arXiv 2102.02887).

        Of a mask that stays it is the density; it never falls, and a network that began dense has explored all.
        """
        return self._past.exploration

    def adopt(self, optimizer: Optimizer) -> None:
        """Put the gates' parameters into groups of their own in `optimizer`, with the options that the gates name.

        For methods with gates that want other options than the weights (no weight decay, say). Call it right after the
        optimizer was made, before schedulers and before its state is loaded. Without gates it does nothing.
        """
        self._attached.adopt(optimizer)

    def parameters(self) -> list[nn.Parameter]:
        """The gates' own parameters, for an optimizer of their own. Empty where the method has no gates."""
        return self._attached.parameters()

    def finish(self) -> Masks:
        """Stop: fold gates away, let the method repair the survivors, write the zeros, and return the masks.

        The weights obey the masks, whatever was loaded or swapped in between. Warns (`EarlyFinishWarning`) if the
        schedule's last milestone has not been reached.
        """
        catch_up(self._network)
        masks = self.masks
        warn_if_early(self.method, self._step, masks)
        if self._gates is not None:
            report_empty(masks, allow_empty=self._allow_empty)
        masks = self._attached.fold() or masks
        self._hold.release()
        if self.method.repair is not None:
            moment = self._moment(self._step, self.method.density, masks)
            moment = replace(moment, evidence=self._sources.for_repair())
            self.method.repair(self._network, masks, moment)
        masks.apply_(self._network)
        follow(self._network)
        return masks

    def release(self) -> None:
        """Stop without a result: hooks and gates go, the weights stay as they are. Twice is fine."""
        self._hold.release()
        self._attached.release()

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint needs: step, masks, running evidence and the generator, as tensors and numbers only.

        Gates belong to the model: their state is in the model's own `state_dict`.
        """
        evidence = self._sources.state_dict()
        state: dict[str, Any] = {"step": self._step, "masks": dict(self._hold.masks), "evidence": evidence}
        if own := self._attached.state_dict():
            state["trainers"] = own
        state |= self._past.state_dict(self._hold.masks)
        if self._generator is not None:
            state["generator"] = self._generator.get_state()
        return state

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from `state_dict()`: masks, evidence, random state and schedule go on where they were.

        Before or after the model's and the optimizer's own state is loaded: what this Pruner cut when it was made is
        given back, unless the weights have been loaded since.
        """
        check_state(state, with_generator=self._generator is not None)
        masks = Masks(state["masks"])
        masks.check(self._network)
        untouched = [name for name, (version, _, _) in self._cut.items() if self._params[name]._version == version]
        self._sources.load_state_dict(state.get("evidence", {}))
        self._step = int(state["step"])
        self._ask()
        self._hold.replace(masks, forget=False)
        self._give_back(untouched)
        self._past.load_state_dict(state, self._params)
        self._attached.load_state_dict(state.get("trainers", {}), step=self._step)
        if self._step >= self._last > 0:
            self._attached.ended()
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
            pruned = ~self._hold.masks[name] | (self._params[name].detach() != old)
            if bool(pruned.any()):
                self._cut[name] = (self._params[name]._version, pruned, old[pruned])
        self._past.saw(self._hold.masks)

    def _give_back(self, names: Iterable[str]) -> None:
        with torch.no_grad():
            for name in names:
                _, pruned, values = self._cut[name]
                self._params[name][pruned] = values
        self._cut.clear()
        self._hold.project()

    def _before_step(self, closure: bool) -> None:
        # Evidence that adds up is of the weights that the gradients belong to: those before the optimizer's step.
        refuse_closure(self.method.name, closure)
        self._sources.update(self._hold.gradients())

    def _after_step(self, _: int) -> None:
        self._cut.clear()
        self._step += 1
        self._attached.after_step(self._step)
        self._act(self._step)
        self._ask()

    def _ask(self) -> None:
        """Have the dense gradients of the coming step copied, if somebody will look at them."""
        self._hold.ask(self._sources.want_gradients(milestone=self._acts_at(self._step + 1)))

    def _acts_at(self, step: int) -> bool:
        return self.method.score is not None and self._gates is None and self.method.schedule(step) is not None

    def _act(self, step: int) -> None:
        milestone = self.method.schedule(step)
        if milestone is None:
            return
        catch_up(self._network)
        if self._gates is not None:
            self._let_gates_act(step, milestone.density)
        elif self._acts_at(step):
            self._choose(step, milestone.density)
        if step >= self._last > 0:
            masks = self._attached.end()
            if masks is not None:
                report_empty(masks, allow_empty=self._allow_empty)
                self._hold.replace(masks)

    def _let_gates_act(self, step: int, density: float | None) -> None:
        if density is not None:
            moment = self._moment(step, density, all_alive(self._params))
            report_empty(self._attached.chosen(moment), allow_empty=self._allow_empty)

    def _choose(self, step: int, density: float | None) -> None:
        moment = self._moment(step, density, self._hold.masks)
        moment = replace(moment, evidence=self._sources.at(moment, self._hold.gradients()))
        masks = Masks(choose(self.method, moment, last=step >= self._last), copy=False)
        report_empty(masks, allow_empty=self._allow_empty)
        if self.method.repair is not None and self.method.repair.always:
            self.method.repair(self._network, masks, moment)
        if self.method.regrow is not None and self.method.regrow.soft and step < self._last:
            masks.apply_(self._network)
            return
        self._hold.replace(masks)
        if self.method.regrow is not None:
            self._past.saw(masks)

    @property
    def _gates(self) -> Gates | None:
        return self._attached.gates

    @property
    def _last(self) -> int:
        """The step of the schedule's last milestone."""
        return self.method.schedule.milestones[-1].step

    def _moment(self, step: int, density: float | None, alive: Mapping[str, Tensor]) -> Moment:
        here = {name: alive[name].to(parameter.device) for name, parameter in self._params.items()}
        turned = layouts(self._network, self._params)
        memory = self._past.memory
        moment = Moment(step, density, self._params, here, generator=self._generator, layouts=turned, memory=memory)
        return self._sources.given(moment)
