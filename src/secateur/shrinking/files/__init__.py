"""Files of models, dense, masked or shrunk: safe to open, written whole, and small."""

from secateur.shrinking.files._content import KINDS, Content
from secateur.shrinking.files._load import Loaded, load, open_content
from secateur.shrinking.files._read import read
from secateur.shrinking.files._save import Described, Small, described, save

__all__ = ["KINDS", "Content", "Described", "Loaded", "Small", "described", "load", "open_content", "read", "save"]
