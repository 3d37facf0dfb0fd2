"""Gates on a model: put up by hooks that leave the names of tensors alone, fed with their penalty, folded away."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Set

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.utils.hooks import RemovableHandle

from secateur._base.errors import GateOptionsWarning, SecateurError
from secateur.axes import Gate, Relax, Stand
from secateur.holding import unwatch, watch
from secateur.masks import Masks
from secateur.measures import Params
from secateur.pruning._charge import charge, group_of, rate_of
from secateur.pruning._refusals import refuse_closure
from secateur.pruning._stands import Instead, OnOutput, Swap, no_shortcut, prove, quiet


class Gates:
    """The gates that a method's `relax` puts up on one model, until they are folded."""

    def __init__(self, network: nn.Module, params: Params, relax: Relax, generator: torch.Generator | None) -> None:
        self._network = network
        self._gated: dict[str, tuple[nn.Parameter, Gate]] = {}
        self._homes: list[tuple[nn.Module, str]] = []
        self._rates: dict[str, float] = {}
        self._handles: list[RemovableHandle] = []
        self._replaced: list[nn.Module] = []
        self._params = params
        self._claimed = self._checked = False
        self._taken: dict[nn.Parameter, Tensor | None] = {}
        of_all = getattr(relax, "of_all", None)
        relax = relax if of_all is None else of_all(params)
        for name, parameter in params.items():
            gate = relax(name, parameter)
            if gate is not None:
                self._put_up(name, parameter, gate, generator)
        if not self._gated:
            raise SecateurError("`relax` put up no gate: it returned None for every parameter that may be pruned.")
        self._number = watch(self)

    def __iter__(self) -> Iterator[Gate]:
        return (gate for _, gate in self._gated.values())

    @property
    def held_out(self) -> bool:
        """Whether they learn from batches of their own."""
        return any(gate.held_out for gate in self)

    @property
    def retires(self) -> bool:
        """Whether they go at the schedule's last milestone."""
        return all(gate.retires for gate in self)

    def parameters(self) -> list[nn.Parameter]:
        """The gates' own parameters; whoever asks for them trains them. None where they are trained already."""
        self._claimed = True
        return [] if self.held_out else [each for each in self._own() if not self._trains_itself(each)]

    def take_gradients(self) -> dict[nn.Parameter, Tensor | None]:
        """Hand over the gradients that the last step of the weights left to gates with trainers of their own."""
        taken, self._taken = self._taken, {}
        return taken

    def worths(self) -> dict[str, Tensor]:
        """What each gate says that its weights, or their units, are worth."""
        bare = self._params.keys() - self._gated.keys()
        if bare:
            raise SecateurError(
                f"a density counts all prunable weights, and {sorted(bare)[0]!r} has no gate to say what its own are "
                "worth. Put a gate on every one, or leave the others out with `only`."
            )
        found = {}
        for name, (parameter, gate) in self._gated.items():
            with quiet(gate):
                found[name] = gate.worth(parameter.detach())
        return found

    def admit(self, masks: Masks) -> None:
        """Tell each gate what has been chosen."""
        with torch.no_grad():
            for name, (parameter, gate) in self._gated.items():
                gate.admit(masks[name].to(parameter.device))

    def masks(self) -> Masks:
        """What stays as the gates stand, everything of what has no gate."""
        bits = {}
        for name, parameter in self._params.items():
            found = self._gated.get(name)
            if found is None:
                bits[name] = torch.ones_like(parameter, dtype=torch.bool)
                continue
            with quiet(found[1]):
                bits[name] = found[1].keep(parameter.detach()).expand_as(parameter)
        return Masks(bits)  # copies: a gate may lend the mask that it goes on changing

    def after_step(self) -> None:
        """Let every gate do what it does after an optimizer step, and see that somebody trains it."""
        with torch.no_grad():
            for name, (parameter, gate) in self._gated.items():
                gate.after_step(parameter, self._rates.get(name, 0.0))

    def adopt(self, optimizer: Optimizer) -> None:
        """Give the gates' parameters groups of their own in `optimizer`, with the options that each gate names."""
        self._claimed = True
        if self.held_out:
            return
        mine = {id(parameter) for parameter in self._own()}
        for group in optimizer.param_groups:
            group["params"] = [each for each in group["params"] if id(each) not in mine]
        optimizer.param_groups[:] = [group for group in optimizer.param_groups if group["params"]]
        for parameter, gate in self._gated.values():
            own = [each for each in gate.parameters() if group_of(optimizer, each) is None]
            if own and not gate.own_trainer:
                home = group_of(optimizer, parameter) or {}
                options = {key: value for key, value in home.items() if key not in ("params", "param_names")}
                optimizer.add_param_group({**options, **gate.options, "params": own})

    def fold(self) -> Masks:
        """Write what the gates make of each weight into the weight, prove it, and take the gates away."""
        masks = self.retire()
        self.remove()
        return masks

    def retire(self) -> Masks:
        """Like `fold`, but leave the gates where they are, without a say: names and optimizers stay as they were."""
        masks, folded = self.masks(), {}
        for name, (parameter, gate) in self._gated.items():
            with quiet(gate):
                folded[name] = gate.fold(parameter.detach())
                prove(name, gate, parameter.detach(), folded[name], masks[name])
        with torch.no_grad():
            for name, (parameter, gate) in self._gated.items():
                self._fold_bias(name, parameter, gate)
                parameter.copy_(folded[name])
        self.stand_down()
        masks.apply_(self._network)
        return masks

    def stand_down(self) -> None:
        """Take the gates' hooks off the model; the gates stay its modules."""
        unwatch(self._number)
        while self._handles:
            self._handles.pop().remove()
        for layer in self._replaced:
            layer.__dict__.pop("forward", None)
        self._replaced.clear()

    def remove(self) -> None:
        """Take all gates and hooks off the model, writing nothing."""
        self.stand_down()
        for module, attribute in self._homes:
            if attribute in module._modules:
                del module._modules[attribute]
        self._homes.clear()

    # How gates get onto the model

    def _put_up(self, name: str, parameter: nn.Parameter, gate: Gate, generator: torch.Generator | None) -> None:
        owners = [
            (path, module, attribute)
            for path, module in self._network.named_modules()
            for attribute, own in module._parameters.items()
            if own is parameter
        ]
        gate.meet([module for _, module, _ in owners])
        gate.to(device=parameter.device, dtype=parameter.dtype).train(self._network.training)
        gate.generator = generator
        _, home, attribute = owners[0]
        label = f"{attribute}_gate"
        if hasattr(home, label):
            raise SecateurError(f"{name!r} has a gate already ({label!r}): finish the Pruner that put it up first.")
        home.add_module(label, gate)
        self._homes.append((home, label))
        self._gated[name] = (parameter, gate)
        for path, module, attribute in owners:
            self._stand(path, module, attribute, gate)

    def _stand(self, path: str, module: nn.Module, attribute: str, gate: Gate) -> None:
        if gate.stands_on is Stand.WEIGHT:
            caller, child = self._caller(path, module)
            swap = Swap(gate, attribute, child)
            self._handles.append(caller.register_forward_pre_hook(swap.enter))
            self._handles.append(caller.register_forward_hook(swap.leave, always_call=True))
        elif gate.stands_on is Stand.OUTPUT:
            self._handles.append(module.register_forward_hook(OnOutput(gate)))
        else:
            module.__dict__["forward"] = Instead(gate, module)
            self._replaced.append(module)
            # Transformers in eval mode read their weights past the layers' own forward, unless a hook stands there.
            self._handles.append(module.register_forward_pre_hook(no_shortcut))

    def _caller(self, path: str, module: nn.Module) -> tuple[nn.Module, str]:
        """The module whose forward reads the weights of `module`: attention never calls its output projection."""
        outer, _, last = path.rpartition(".")
        parent = self._network.get_submodule(outer)
        return (parent, last) if path and isinstance(parent, nn.MultiheadAttention) else (module, "")

    # What they do at each step

    def _own(self) -> list[nn.Parameter]:
        return list(dict.fromkeys(parameter for gate in self for parameter in gate.parameters()))

    def _trains_itself(self, parameter: nn.Parameter) -> bool:
        return any(gate.own_trainer and any(each is parameter for each in gate.parameters()) for gate in self)

    def _before_step(self, owned: Set[int], optimizer: Optimizer, closure: bool) -> None:
        for name, (parameter, gate) in self._gated.items():
            own = list(gate.parameters())
            if id(parameter) in owned:
                self._rates[name] = rate_of(optimizer, parameter)
            if id(parameter) in owned and not (self._claimed or gate.held_out or gate.own_trainer):
                left_out = [each for each in own if id(each) not in owned]
                self._join(optimizer, parameter, left_out)
                owned = owned | {id(each) for each in left_out}
            if gate.own_trainer and id(parameter) not in owned:
                continue  # its own trainer's step, whose gradients have been seen to
            trained = [each for each in (*own, parameter) if gate.own_trainer or id(each) in owned]
            self._charge(gate, parameter, [each for each in trained if each.requires_grad], optimizer, closure)
        for parameter, gate in self._gated.values():
            if id(parameter) in owned:
                self._withhold(parameter, gate)

    def _charge(
        self, gate: Gate, parameter: nn.Parameter, trained: list[nn.Parameter], optimizer: Optimizer, closure: bool
    ) -> None:
        if not trained:
            return
        refuse_closure(type(gate).__name__, closure)
        if not gate.own_trainer:
            self._check_options(optimizer, gate, list(gate.parameters()))
        with torch.enable_grad():
            price = gate.penalty(parameter)
        charge(price, trained, optimizer)

    def _withhold(self, parameter: nn.Parameter, gate: Gate) -> None:
        """Keep gradients from the optimizer that are none of its: without one it leaves a parameter as it is."""
        if gate.freezes:
            parameter.grad = None
        for each in gate.parameters() if gate.own_trainer else ():
            if each not in self._taken:
                self._taken[each] = each.grad
                each.grad = None

    def _join(self, optimizer: Optimizer, parameter: nn.Parameter, left_out: list[nn.Parameter]) -> None:
        """Let the optimizer that was made before the gates train them too, in the group of the gated weight."""
        group = group_of(optimizer, parameter)
        if group is not None and left_out:
            group["params"].extend(left_out)

    def _check_options(self, optimizer: Optimizer, gate: Gate, own: list[nn.Parameter]) -> None:
        """Warn, once, of gates that are trained with other options than they name."""
        group = group_of(optimizer, own[0]) if own and not self._checked else None
        if group is None:
            return
        self._checked = True
        other = {key: group[key] for key, value in gate.options.items() if key in group and group[key] != value}
        if other:
            warnings.warn(
                f"{type(gate).__name__} asks for {dict(gate.options)}, but the optimizer trains it with {other}. "
                "Call pruner.adopt(optimizer) right after making the optimizer.",
                GateOptionsWarning,
                stacklevel=2,
            )

    def _after_step(self, owned: Set[int], optimizer: Optimizer) -> None:
        pass

    def _fold_bias(self, name: str, parameter: nn.Parameter, gate: Gate) -> None:
        bias = getattr(self._network.get_submodule(name.rpartition(".")[0]), "bias", None)
        if gate.stands_on is Stand.OUTPUT and isinstance(bias, nn.Parameter):
            with quiet(gate):
                bias.mul_(gate.factors(parameter.detach()).flatten())
