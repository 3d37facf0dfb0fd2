"""Which index was which, and why each unit went: a value that undoes a cut, joins cuts, and can be written down."""

from secateur.shrinking.manifests._json import from_json, to_json
from secateur.shrinking.manifests._manifest import Manifest
from secateur.shrinking.manifests._record import Span, UnitRecord

__all__ = ["Manifest", "Span", "UnitRecord", "from_json", "to_json"]
