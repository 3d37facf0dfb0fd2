"""Torch's transformer encoders with sparse layers in them: without the short cuts that read dense weights."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.modules.transformer import _detect_is_causal_mask, _get_seq_len

from secateur._base.errors import SecateurError


class SparseEncoderLayer(nn.TransformerEncoderLayer):
    """An `nn.TransformerEncoderLayer` in which layers are sparse.

    In evaluation torch's own runs as one operation that reads all weights densely, past the layers' `forward`. It
    asks first whether its activation is one of two, and is told that it is not; what is dense runs as it would alone.
    """

    @property
    def activation_relu_or_gelu(self) -> int:  # type: ignore[override]
        """0, for neither: a property comes before the instance's own number, which `densify` finds again."""
        return 0

    def forward(
        self,
        src: Tensor,
        src_mask: Tensor | None = None,
        src_key_padding_mask: Tensor | None = None,
        is_causal: bool = False,
    ) -> Tensor:
        """Run the layer, as torch's."""
        if src.is_nested:
            raise SecateurError(
                "a sparse encoder layer does not take nested tensors: its kernels want every sample in rows of one "
                "length. Pad them, with a src_key_padding_mask (an encoder of a class of your own nests padded samples "
                "unless it has enable_nested_tensor=False), or take secateur.densify(model)."
            )
        return super().forward(src, src_mask, src_key_padding_mask, is_causal)


class SparseEncoder(nn.TransformerEncoder):
    """An `nn.TransformerEncoder` in which layers are sparse.

    In evaluation torch's own turns padded samples into nested tensors, which leaves zeros where the padding was. This
    one leaves them there too, under the same conditions, and runs its layers on the padded samples.
    """

    def forward(
        self,
        src: Tensor,
        mask: Tensor | None = None,
        src_key_padding_mask: Tensor | None = None,
        is_causal: bool | None = None,
    ) -> Tensor:
        """Run all layers, as torch's."""
        kind, canonical = functional._none_or_dtype, functional._canonical_mask  # type: ignore[attr-defined]
        padding = canonical(
            mask=src_key_padding_mask, mask_name="src_key_padding_mask", other_type=kind(mask), other_name="mask",
            target_type=src.dtype,
        )  # fmt: skip
        mask = canonical(
            mask=mask, mask_name="mask", other_type=None, other_name="", target_type=src.dtype, check_other=False
        )
        first: Any = self.layers[0]
        causal = _detect_is_causal_mask(mask, is_causal, _get_seq_len(src, first.self_attn.batch_first))
        x = src
        for layer in self.layers:
            x = layer(x, src_mask=mask, is_causal=causal, src_key_padding_mask=padding)
        if padding is not None and mask is None and self._torch_would_nest(src, padding):
            x = x.masked_fill(padding.bool().unsqueeze(-1), 0.0)
        return x if self.norm is None else self.norm(x)

    def _torch_would_nest(self, src: Tensor, padding: Tensor) -> bool:
        """Tell whether torch's own encoder, of dense layers, would run on nested tensors."""
        first = self.layers[0]
        learns = torch.is_grad_enabled() and any(t.requires_grad for t in (src, *first.parameters()))
        if not self.use_nested_tensor or not torch.backends.mha.get_fastpath_enabled() or first.training or learns:
            return False
        if src.dim() != 3 or torch.is_autocast_enabled():
            return False
        if not self.mask_check:
            return True
        compiles = torch.compiler.is_compiling()
        aligned = torch._nested_tensor_from_mask_left_aligned  # type: ignore[attr-defined]
        return not compiles and aligned(src, padding.logical_not())
