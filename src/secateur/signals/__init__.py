"""What signals do in a network before it is trained: paths, kernels, walks, and how far a signal carries.

| name | what it is |
|---|---|
| `effective` | which kept weights lie on a path from the inputs to the outputs |
"""

from __future__ import annotations

from secateur.signals._effective import Paths, effective

__all__ = ["Paths", "effective"]
