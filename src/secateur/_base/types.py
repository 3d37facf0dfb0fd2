"""Shape annotations: jaxtyping where it is installed (the test run checks them), plain tensors elsewhere.

jaxtyping is a development dependency only, so that installing Secateur stays small.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from torch import Tensor

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, Int, Shaped
else:
    try:
        from jaxtyping import Bool, Float, Int, Shaped
    except ImportError:

        class _AnyTensor:
            """Stands in for jaxtyping's `Float[Tensor, "rows columns"]`: the annotation becomes a plain tensor."""

            def __class_getitem__(cls, item: Any) -> type[Tensor]:
                return Tensor

        Bool = Float = Int = Shaped = _AnyTensor

__all__ = ["Bool", "Float", "Int", "Shaped", "Tensor"]
