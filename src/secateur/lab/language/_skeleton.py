"""A language model without weights: built from its configuration, and filled block by block.

Parameters are on the device `meta`; buffers are real, since a model computes them (the angles of rotary embeddings).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.module import register_module_parameter_registration_hook

from secateur._base.errors import SecateurError, UnfitModelError
from secateur._base.text import shown
from secateur.lab.language._folder import configured
from secateur.lab.language._weights import Kind, Source, kind_of
from secateur.pruning.blocks import Stage, found_in

IN_MEMORY = "Prune it in memory (`secateur prune --in-memory`)."


class Skeleton:
    """A causal language model in a folder, none of whose weights are in memory.

    Attributes:
        model: the model; eval mode.
        blocks: the names of its blocks, in their order.
        device: where blocks are run.

    Raises:
        SecateurError: a tensor that the files do not have, or that has another shape there.
        UnfitModelError: a model whose blocks cannot be filled one by one.
    """

    def __init__(self, folder: Path, source: Source, device: torch.device) -> None:
        def empty(module: nn.Module, name: str, parameter: nn.Parameter | None) -> nn.Parameter | None:
            if parameter is None or parameter.is_meta:
                return parameter
            return nn.Parameter(parameter.detach().to("meta"), requires_grad=parameter.requires_grad)

        register: Any = register_module_parameter_registration_hook  # which torch annotates as returning nothing
        hook = register(empty)
        try:
            self.model = configured(folder).eval()
        finally:
            hook.remove()
        self.blocks = found_in(self.model)
        self.device = device
        self._source = source
        self._refuse_shared()
        self._stored = self._names()
        for name, buffer in self.model.named_buffers():
            owner, _, own = name.rpartition(".")
            self.model.get_submodule(owner)._buffers[own] = buffer.to(device)

    # --- weights ------------------------------------------------------------------------------------------------------

    def value(self, name: str) -> Tensor:
        """A tensor of the model by its name there, in the model's type, from the files or as it was built."""
        mine = self._own()[name]
        if name not in self._stored:
            return mine.detach()
        found = self._source.tensor(self._stored[name])
        if found.shape != mine.shape:
            raise SecateurError(
                f"{shown(name)!r} has the shape {tuple(found.shape)} in the files, and {tuple(mine.shape)} by the "
                "model's configuration."
            )
        return found.to(mine.dtype)

    def outside(self) -> dict[str, Tensor]:
        """What is saved of the model besides its blocks, without values; of tied tensors the first name."""
        seen: set[int] = set()
        found = {}
        for name, tensor in self._own().items():
            if id(tensor) not in seen and not self._inside(name):
                found[name] = tensor
            seen.add(id(tensor))
        return found

    def inside(self) -> list[dict[str, Kind]]:
        """What is saved of each block."""
        return [
            {name: kind_of(tensor) for name, tensor in self._own().items() if name.startswith(f"{block}.")}
            for block in self.blocks
        ]

    @contextmanager
    def block(self, number: int) -> Iterator[Stage]:
        """One block with its weights; when the context ends they are gone again."""
        name = self.blocks[number]
        with self._filled([each for each in self._own() if each.startswith(f"{name}.")]):
            yield Stage(name, self.model.get_submodule(name))

    @contextmanager
    def _filled(self, names: Iterable[str]) -> Iterator[None]:
        homes: list[tuple[dict[str, Any], str, Any]] = []
        made: dict[int, Tensor] = {}
        try:
            for name in names:
                owner, _, own = name.rpartition(".")
                module = self.model.get_submodule(owner)
                home: dict[str, Any] = module._parameters if own in module._parameters else module._buffers
                before = home[own]
                value = made.get(id(before))
                if value is None:
                    value = self.value(name).to(self.device)
                    if isinstance(before, nn.Parameter):
                        value = nn.Parameter(value, requires_grad=before.requires_grad)
                    made[id(before)] = value
                homes.append((home, own, before))
                home[own] = value
            yield
        finally:
            for home, own, before in homes:
                home[own] = before

    def _own(self) -> dict[str, Tensor]:
        """What a model saves, with every name of what is tied."""
        return self.model.state_dict(keep_vars=True)

    def _inside(self, name: str) -> bool:
        return any(name.startswith(f"{block}.") for block in self.blocks)

    def _names(self) -> dict[str, str]:
        """Under which name the files have each tensor: its own, or with or without the name of the inner model."""
        prefix = f"{getattr(self.model, 'base_model_prefix', '')}."
        own, found = self._own(), {}
        by_tensor: dict[int, list[str]] = {}
        for name, tensor in own.items():
            by_tensor.setdefault(id(tensor), []).append(name)
        for name, tensor in own.items():
            tied = [name, *by_tensor[id(tensor)]]
            tried = [*tied, *(each.removeprefix(prefix) for each in tied), *(prefix + each for each in tied)]
            stored = next((each for each in tried if each in self._source), None)
            if stored is not None:
                found[name] = stored
            elif tensor.is_meta:
                raise SecateurError(
                    f"the files of {shown(self._source.folder)} have no tensor {shown(name)!r}, which the model of its "
                    f"config.json has. {IN_MEMORY}"
                )
        return found

    def _refuse_shared(self) -> None:
        owner: dict[int, str] = {}
        for name, tensor in self._own().items():
            block = next((each for each in self.blocks if name.startswith(f"{each}.")), "")
            if tensor.is_meta and owner.setdefault(id(tensor), block) != block:
                raise UnfitModelError(
                    f"{shown(name)!r} is shared between {owner[id(tensor)] or 'the rest of the model'!r} and "
                    f"{block or 'the rest'!r}: blocks that share weights cannot be pruned one at a time. {IN_MEMORY}"
                )

    @contextmanager
    def before(self) -> Iterator[None]:
        """What runs before the blocks, with its weights; not the head, which is behind them."""
        with self._filled([name for name in self._own() if not self._inside(name) and name not in self._heads()]):
            yield

    def _heads(self) -> set[str]:
        """Names of what only the head has, which is behind all blocks."""
        head: Any = getattr(self.model, "get_output_embeddings", lambda: None)()
        if head is None:
            return set()
        mine = {id(p) for p in head.parameters()}
        elsewhere = {
            id(p) for module in self.model.modules() if module is not head for p in module.parameters(recurse=False)
        }
        return {name for name, tensor in self._own().items() if id(tensor) in mine - elsewhere}
