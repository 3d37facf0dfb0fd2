"""What a newcomer writes instead of `prune(model, method)`: each a sentence with the way out, and nothing done."""

from __future__ import annotations

from collections.abc import Callable
from inspect import unwrap
from typing import Any

import pytest
import torch
from torch import nn

from secateur import Pruner, methods, programs, prune, scores
from secateur._base.errors import SecateurError

BATCH = [(torch.randn(4, 8), torch.arange(4) % 2)]


def begin(model: Any, method: Any, batches: Any) -> None:
    """`Pruner(…)` as users have it: in tests, annotations are checked before it is reached."""
    unwrap(Pruner.__init__)(object.__new__(Pruner), model, method, batches)


CALLS: dict[str, Callable[..., Any]] = {
    "prune": lambda model, method: unwrap(prune)(model, method, BATCH),
    "scores": lambda model, method: unwrap(scores)(model, method, BATCH),
    "Pruner": lambda model, method: begin(model, method, BATCH),
}


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize(
    ("method", "message"),
    [
        ("snip", r"got the name 'snip'. Write, for example, methods\.snip\(density=0\.05\)"),
        (methods.snip, r"got the function 'snip', which makes one. Write, for example, methods\.snip\(density="),
        (0.05, r"got float 0\.05"),
        (None, r"got NoneType"),
    ],
)
def test_what_is_no_method(call: str, method: object, message: str) -> None:
    model = nn.Linear(8, 2)
    before = model.weight.clone()
    with pytest.raises(SecateurError, match=f"`method` must be a Method, {message}"):
        CALLS[call](model, method)
    assert torch.equal(model.weight, before)


@pytest.mark.parametrize("call", CALLS)
def test_what_is_no_model(call: str) -> None:
    with pytest.raises(SecateurError, match=rf"The model comes first: {call}\(model, method\)"):
        CALLS[call](methods.snip(0.5), nn.Linear(8, 2))
    with pytest.raises(SecateurError, match="Make one of the class first"):
        CALLS[call](nn.Linear, methods.snip(0.5))
    with pytest.raises(SecateurError, match=r"`model` must be an nn\.Module.*got a dict"):
        CALLS[call]({}, methods.snip(0.5))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: methods.snip(sparsity=0.95), r"snip has no option `sparsity`.*sparsity=0\.95 is density=0\.05"),  # pyright: ignore[reportCallIssue]
        (lambda: methods.snip(0.1, scop=None), r"no option `scop`. Did you mean 'scope'\? It has density, "),  # pyright: ignore[reportCallIssue]
        (lambda: methods.snip(0.1, sparsity=7), r"no option `sparsity`"),  # pyright: ignore[reportCallIssue]
        (lambda: programs.imp(nn.Linear(2, 2), densty=0.1), r"imp has no option `densty`. Did you mean 'density'"),  # pyright: ignore[reportCallIssue]
    ],
)
def test_options_that_a_method_does_not_have(call: Callable[[], object], message: str) -> None:
    with pytest.raises(SecateurError, match=message):
        call()
