"""GAL: soft masks learn, without labels, what a network can lose before an adversary tells it from the whole one."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

from torch import Tensor, nn

from secateur._base.arguments import require_model
from secateur._base.errors import SecateurError
from secateur.axes import all_alive
from secateur.holding import held
from secateur.masks import Masks, Only, prunable, unwrap
from secateur.programs.adversarial import Pace, SoftMasks, inputs_in, masks_from, places_of, train_student


def gal(
    model: nn.Module,
    *,
    batches: Iterable[Tensor | Sequence[object]],
    steps: int = 1000,
    strength: float = 1e-2,
    mse: float = 1.0,
    rate: float = 0.01,
    mask_rate: float = 0.1,
    blocks: Sequence[str] = (),
    only: Only = None,
) -> Masks:
    """Train a student with soft masks to be told from its teacher by nobody, and cut what its masks let go.

    The student is the model, its units' outputs (and those of `blocks`) times m ≥ 0; the teacher a copy of it, in eval
    mode. A discriminator D learns to tell their logits apart; weights and masks minimise
    μ·MSE(logits) + BCE(D(student), teacher) + λ‖m‖₁, the last by FISTA, which makes exact zeros. Then m is folded into
    the weights; units of m = 0 are cut with all that feeds them. Fine-tune, and `shrink` by the masks.

    Args:
        model: a trained network, logits [batch, classes] from one tensor.
        batches: inputs, alone or first in tuples; labels are not looked at. They are gone through again and again.
        steps: of both optimizers.
        strength: λ.
        mse: μ.
        rate: of SGD (momentum 0.9, decay 2e-4) for the weights.
        mask_rate: η of FISTA.
        blocks: names or globs of layers, or of the batch norms behind them, whose whole output one number masks: the
            last ones of residual branches, say.
        only: which tensors, see `prunable`.

    Family: after training.
    Source: Lin et al., "Towards optimal structured CNN pruning via generative adversarial learning", arXiv 1903.09291.
    Deviates: masks begin at 1 (the authors' code: N(0, 1), half of them dead at once) and move at every step; D ends in
    logits, sees the student as student alone; λ acts once; the teacher's batch norms stay. D has no decay.
    """
    require_model(model, "gal(model, batches=…)")
    if (
        not isinstance(steps, int)
        or steps < 1
        or not all(0 <= each < math.inf for each in (strength, mse))
        or not (rate > 0 and mask_rate > 0)
    ):
        raise SecateurError(
            "`steps` must be a whole number, 1 at least, `strength` and `mse` 0 at least, both rates above 0."
        )
    network, seen = unwrap(model), inputs_in(batches)
    if held(network):
        raise SecateurError("`model` is held by masks, which gal does not go on from: release() their hold first.")
    params = prunable(network, only)
    soft = SoftMasks(places_of(network, params, blocks), next(iter(params.values())))
    train_student(network, soft, seen, Pace(steps, strength, mse, rate, mask_rate))
    soft.fold()
    return masks_from(soft, network, Masks(all_alive(params)))
