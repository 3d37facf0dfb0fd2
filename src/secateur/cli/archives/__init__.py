"""`secateur compress`, `unpack` and `inspect`, and the files of weights that they and others read."""

from secateur.cli.archives._commands import add
from secateur.cli.archives._weights import weights

__all__ = ["add", "weights"]
