"""One experiment as a frozen value: what is pruned, how, on what, how trained. Its content names its run."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from enum import StrEnum
from types import MappingProxyType
from typing import Any, TypeVar

from secateur._base.errors import SecateurError, nearest
from secateur.lab.experiment._engine import BF16, Engine, misfit
from secateur.lab.experiment._recipe import Adam, Constant, Ramp, Recipe, Sgd, Stairs
from secateur.lab.models import Initial
from secateur.lab.repeat import digest, plain, unplain
from secateur.selection import check_density

Option = bool | int | float | str

#: The pseudo-method that prunes nothing.
DENSE = "dense"


class Sanity(StrEnum):
    """Which part of a method's choice is taken away before training (Frankle et al., arXiv 2009.08576, §4).

    `INVERT` keeps the lowest scores, `SHUFFLE` permutes each layer's mask, `REINIT` trains another draw of the weights
    than the one that was scored; `NONE` leaves the choice whole.
    """

    NONE = ""
    INVERT = "invert"
    SHUFFLE = "shuffle"
    REINIT = "reinit"


@dataclass(frozen=True)
class Experiment:
    """A run of pruning and training, complete: two equal experiments on one machine end in the same bits.

    What comes first is the method's affair: most prune before training, some act while it goes on, some prune a
    network that has been trained, some own a loop (`secateur.lab.running`).

    A run's directory is named by a hash of the fields that differ from their defaults (as open_lth does). So
    a new field may be added as long as its default means what the code did before; a default may never be
    changed.

    Args:
        model: a name of `secateur.lab.models`.
        data: a name of `secateur.lab.data`.
        method: a name of `secateur.catalogue()`, or "dense" for no pruning at all.
        density: fraction of the prunable weights that stay, in (0, 1]; 1 for "dense", and for methods that decide
            themselves how much stays.
        recipe: the training run.
        seed: draws the weights, the validation split, the data order, the augmentation and a method's own
            chance.
        options: further arguments of the method's factory, as (name, value) pairs; `with_options` builds
            them.
        score_batch: examples in a batch that the method looks at; 0 means the recipe's batch.
        score_batches: how many such batches it looks at.
        initialiser: how weights are drawn for training.
        score_initialiser: how weights are drawn for scoring only; None means the same ones are scored and
            trained.
        redraw: after pruning, draw the surviving weights anew (the published SNIP code scores one draw and
            trains another).
        biases: count and prune biases too (the published SNIP code does).
        score_in_eval: score with batch norm in eval mode (the published SNIP code does).
        engine: who computes the training steps.
        block: outputs and inputs of the blocks that are kept or cut as one; (1, 1) means single weights.
        layers: the fraction that stays of each prunable tensor, in the order of the network's parameters, for methods
            that take a scope; `density` is then the whole's, and decides nothing. Empty: the method's own scope.
        sanity: which part of the method's choice is taken away before training.
        random_labels: train on permuted labels (arXiv 1611.03530). The method still looks at the true ones, as
            in SNIP's Figure 4.
        validation: the fraction of the training set that is held out.
        examples: how many examples of each set are used, the first ones; 0 means all.
        bf16: compute the matrix products and convolutions of training and evaluation in bfloat16
            (`torch.autocast`), images in channels_last, for GPUs. Weights, their gradients, the optimizer and the
            loss stay in float32, and so does scoring: what is pruned does not depend on it.
        pretrain: train the dense network by this recipe before it is pruned; None prunes the untrained one.
            `suited` gives it to methods that are for trained networks. Another experiment: begin with the network that
            it ends in, whatever it pruned; its seed is this one's.
        effective: the density is that of weights on a path from inputs to outputs (`secateur.prune`).

    Raises:
        SecateurError: for a density outside (0, 1], a dense run that is not dense, a negative seed, batch or
            number of examples, or bfloat16 from the sparse engine.
    """

    model: str
    data: str
    method: str
    density: float
    recipe: Recipe
    seed: int = 0
    options: tuple[tuple[str, Option], ...] = ()
    score_batch: int = 0
    score_batches: int = 1
    initialiser: Initial = Initial.VS_X
    score_initialiser: Initial | None = None
    redraw: bool = False
    biases: bool = False
    score_in_eval: bool = False
    engine: Engine = Engine.AUTO
    block: tuple[int, int] = (1, 1)
    sanity: Sanity = Sanity.NONE
    random_labels: bool = False
    validation: float = 0.1
    examples: int = 0
    bf16: bool = False
    pretrain: Recipe | Experiment | None = None
    layers: tuple[float, ...] = ()
    effective: bool = False

    def __post_init__(self) -> None:
        check_density(self.density)
        if self.method == DENSE and self.density != 1:
            raise SecateurError(f"`density` of the method dense must be 1 (nothing is pruned), got {self.density}.")
        counts = {"seed": self.seed, "score_batch": self.score_batch, "examples": self.examples}
        for name, value in counts.items():
            if value < 0:
                raise SecateurError(f"`{name}` must not be negative, got {value}.")
        if self.score_batches < 1:
            raise SecateurError(f"`score_batches` must be at least 1, got {self.score_batches}.")
        if len(self.block) != 2 or min(self.block) < 1:
            raise SecateurError(f"`block` must be two numbers of at least 1, got {self.block}.")
        if self.blocked and self.method == DENSE:
            raise SecateurError(f"`block` is a method's, and dense has none, got {self.block}.")
        if self.sanity and self.method == DENSE:
            raise SecateurError(f"`sanity` checks a method's choice, and dense makes none, got {str(self.sanity)!r}.")
        if self.effective and self.method == DENSE:
            raise SecateurError("`effective` is a method's budget, and dense prunes nothing: leave it False.")
        if self.pretrain is not None and self.method == DENSE:
            raise SecateurError("`pretrain` is for what is pruned later, and dense is not: leave it None.")
        if self.blocked and self.biases:
            raise SecateurError(f"`block` is for weights, and `biases` are counted too, got {self.block}.")
        if self.layers and (self.method == DENSE or self.biases):
            raise SecateurError(f"`layers` are for a method that prunes weights, got {self.layers} for {self.method}.")
        if self.bf16 and self.engine is Engine.SPARSE:
            raise misfit(BF16)
        object.__setattr__(self, "layers", tuple(map(float, self.layers)))
        object.__setattr__(self, "options", tuple(sorted((str(name), value) for name, value in self.options)))

    @property
    def blocked(self) -> bool:
        """Whether blocks are pruned and not single weights."""
        return self.block != (1, 1)

    @property
    def hash(self) -> str:
        """Eight hexadecimal digits of the non-default fields, the same on every machine."""
        return digest(self)

    @property
    def name(self) -> str:
        """The name of the run's directory: readable first, then the hash.

        >>> Experiment("lenet-300-100", "digits", "snip", 0.05, Recipe(100, Constant(0.1))).name
        'snip-lenet-300-100-digits-d0.05-s0-79e66717'
        """
        block = ("b{}x{}".format(*self.block),) if self.blocked else ()
        check = (self.sanity,) if self.sanity else ()
        words = (self.method, *check, self.model, self.data, f"d{self.density:g}", *block, f"s{self.seed}")
        return "-".join([*(re.sub(r"[^A-Za-z0-9.]+", "-", word) for word in words), self.hash])

    def with_options(self, options: Mapping[str, Option]) -> Experiment:
        """Return the experiment with these arguments for the method's factory added."""
        return replace(self, options=tuple({**dict(self.options), **options}.items()))

    def to_json(self) -> dict[str, Any]:
        """Return JSON-ready data: the non-default fields."""
        return plain(self)

    @staticmethod
    def from_json(data: Mapping[str, Any]) -> Experiment:
        """Rebuild an experiment from `to_json`'s data.

        Raises:
            SecateurError: it is no such data: an unknown kind or field, a missing one, or one of another type.
        """
        words = {"initialiser": Initial, "score_initialiser": Initial, "engine": Engine, "sanity": Sanity}
        try:
            content = dict(data) | {
                name: member(name, kind, data[name]) for name, kind in words.items() if name in data
            }
            if "options" in content:
                content["options"] = [[str(name), value] for name, value in content["options"]]
            first = content.get("pretrain")
            if isinstance(first, dict) and first.get("kind") == "experiment":
                content["pretrain"] = Experiment.from_json(first)
            built = unplain(content, (Experiment, Recipe, Sgd, Adam, Stairs, Constant, Ramp))
        except SecateurError:
            raise
        except (AttributeError, ArithmeticError, LookupError, RecursionError, TypeError, ValueError) as problem:
            raise SecateurError(f"it is no stored experiment ({type(problem).__name__}: {problem}).") from None
        if not isinstance(built, Experiment):
            raise SecateurError(f"expected a stored experiment, got a stored {type(built).__name__.lower()}.")
        return built


#: The SNIP authors' own protocol, as `replace(experiment, **PAPER_PROTOCOL)`: biases counted, weights drawn a second
#: time after pruning, batch norm in eval mode while scoring (namhoonlee/snip-public; arXiv 1810.02340 does not say so).
PAPER_PROTOCOL: Mapping[str, bool] = MappingProxyType({"redraw": True, "biases": True, "score_in_eval": True})


_Word = TypeVar("_Word", bound=StrEnum)


def member(field: str, kind: type[_Word], value: str) -> _Word:
    """Return the member of `kind` that a word stands for.

    Raises:
        SecateurError: naming the field, the words that it may have, and the nearest.

    >>> member("sanity", Sanity, "shuffle")
    <Sanity.SHUFFLE: 'shuffle'>
    """
    words = [member.value for member in kind]
    if value not in words:
        known = ", ".join(word for word in words if word)
        raise SecateurError(f"`{field}` must be one of {known}, got {value!r}.{nearest(value, words)}")
    return kind(value)
