"""Files of models, dense, masked or shrunk: safe to open, written whole, and small."""

from secateur.shrinking.files._content import Content
from secateur.shrinking.files._load import Loaded, load
from secateur.shrinking.files._read import read
from secateur.shrinking.files._save import Small, save

__all__ = ["Content", "Loaded", "Small", "load", "read", "save"]
