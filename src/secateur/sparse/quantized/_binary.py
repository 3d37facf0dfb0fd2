"""BinaryLinear: a linear layer whose weights and inputs are one bit each, for inference."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from secateur._base.errors import SecateurError
from secateur._base.types import Float, Int
from secateur.sparse.calls import autocast_to, binary_by_torch, binary_layer, binary_linear, refuse_lookers
from secateur.sparse.layers import DenseState, fill


class BinaryLinear(DenseState):
    """A linear layer of weights +1 and −1, packed to bits, on inputs of +1 and −1; for inference alone.

    With n weights in a row, of bits w̄ and x̄ (1 for +1),

        y = a (n − 2 popcount(x̄ xor w̄)) + b,

    a the row's scale. The count is exact; a product and a sum in float32 follow. Where weights are pruned, only the
    others are counted. An input that is neither +1 nor −1 is refused: nothing is rounded.

    Nothing in it is a parameter. `train()` is refused, and so is an input that wants a gradient. The `state_dict` has
    the dense `weight`, a w; it is not loaded from one.

    Args:
        signs: w, +1 and −1, 0 where pruned, as int8.
        scales: a, one for each row.
        bias: one for each row, or None.
        dtype: of the dense layer that it was, and that `dense` makes again.

    Source: Courbariaux et al., arXiv 1602.02830, §3; Rastegari et al., XNOR-Net, arXiv 1603.05279.

    >>> layer = BinaryLinear(torch.tensor([[1, -1, 1]], dtype=torch.int8), torch.ones(1), None)
    >>> layer(torch.tensor([[1.0, 1.0, -1.0]])).tolist()
    [[-1.0]]
    """

    compute_dense = False
    signs: Tensor
    scales: Tensor
    bias: Tensor | None
    like: Tensor

    def __init__(
        self,
        signs: Int[Tensor, "rows columns"],
        scales: Float[Tensor, " rows"],
        bias: Float[Tensor, " rows"] | None,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        super().__init__()
        self.training = False
        self.register_buffer("signs", signs)
        self.register_buffer("scales", scales)
        self.register_buffer("bias", bias)
        self.register_buffer("like", torch.empty(0, dtype=dtype, device=scales.device))  # follows `to`

    @staticmethod
    def from_dense(linear: nn.Linear) -> BinaryLinear:
        """Pack a layer whose weights have one magnitude in each row, or are zero.

        Raises:
            SecateurError: they have not.
        """
        weight = linear.weight.detach().float()
        scales = weight.abs().amax(1)
        if (why := why_not_binary(linear)) is not None:
            raise SecateurError(f"BinaryLinear takes weights of one bit, and {why}.")
        bias = None if linear.bias is None else linear.bias.detach().float().clone()
        return BinaryLinear(weight.sign().to(torch.int8), scales, bias, linear.weight.dtype)

    @property
    def weight(self) -> Tensor:
        """The dense weight a w, built when asked for."""
        return self.signs.float() * self.scales.float()[:, None]

    @property
    def bytes(self) -> int:
        """How many bytes the kernels read of the weights: bits, those of places where any is pruned, and scales."""
        rows, columns = self.signs.shape
        each = -(-columns // 512) * 64 * (1 + bool((self.signs == 0).any()))
        return rows * (each + 4)

    def forward(self, x: Float[Tensor, "*batch columns"]) -> Float[Tensor, "*batch rows"]:
        """Multiply: [..., columns] of +1 and −1 → [..., rows], in the type of `x`, or the one that autocast wants."""
        refuse_lookers(x)
        rows, columns = self.signs.shape
        if x.shape[-1] != columns:
            raise ValueError(f"the input of BinaryLinear must have {columns} features, got {x.shape[-1]}")
        if torch.is_grad_enabled() and x.requires_grad:
            raise SecateurError(
                "weights of one bit pass no gradients on. Call the model under torch.no_grad(), or train the dense "
                "model under methods.binarise."
            )
        wanted, flat = autocast_to(x) or x.dtype, x.detach().reshape(-1, columns).float()
        return self._product(flat).to(wanted).view(*x.shape[:-1], rows)

    def _product(self, x: Tensor) -> Tensor:
        bias = None if self.bias is None else self.bias.float().contiguous()
        scales = self.scales.float().contiguous()
        kernels = x.is_cpu and x.numel() > 0
        layer = self._kept("_layer", lambda: binary_layer(self.signs)) if kernels else None
        if layer is not None:
            return binary_linear(x, layer, scales, bias)
        return binary_by_torch(x, self._kept("_dense", self.signs.float), scales, bias)

    def _kept(self, name: str, make: Any) -> Any:
        """Make something of the weights that is kept for the next call, until they are moved."""
        key = (self.signs.data_ptr(), self.signs.device, self.signs._version)
        kept = self.__dict__.get(name)
        if kept is None or kept[0] != key:
            kept = self.__dict__[name] = (key, make())
        return kept[1]

    def dense(self) -> nn.Linear:
        """Return the dense layer of the same weights. It does not train."""
        rows, columns = self.signs.shape
        made = nn.Linear(columns, rows, bias=self.bias is not None, device="meta")
        return fill(made, self.weight, self, trains=False).to(self.like.dtype)

    def dense_state(self) -> dict[str, Tensor]:
        """Return the dense weight and the bias."""
        return {"weight": self.weight} | ({} if self.bias is None else {"bias": self.bias})

    def dense_shapes(self) -> dict[str, torch.Size]:
        """Return nothing: there are no parameters."""
        return {}

    def take(self, name: str, found: Tensor) -> str | None:
        """Refuse every tensor: bits are made of dense weights."""
        return "is one bit and is not loaded; load it into the dense model and take sparse.binarised of that"

    def train(self, mode: bool = True) -> Any:
        """Set evaluation mode; training is refused."""
        if mode:
            raise SecateurError(
                "weights of one bit do not train. Train the dense model under methods.binarise, and take "
                "sparse.binarised of it again."
            )
        return super().train(False)

    def __getstate__(self) -> dict[str, Any]:
        return {key: value for key, value in super().__getstate__().items() if key not in ("_layer", "_dense")}

    def extra_repr(self) -> str:
        """Name the sizes."""
        rows, columns = self.signs.shape
        return f"in_features={columns}, out_features={rows}, bias={self.bias is not None}"


def why_not_binary(linear: nn.Linear) -> str | None:
    """Why a layer's weights are not of one magnitude in each row; None where they are."""
    weight = linear.weight.detach().float()
    if not weight.numel():
        return "it has no weights"
    if not bool(weight.isfinite().all()):
        return "some are not finite"
    size = weight.abs()
    if not bool(((size == size.amax(1, keepdim=True)) | (size == 0)).all()):
        return "in a row there are several magnitudes: methods.binarise ends in ±1"
    return None
