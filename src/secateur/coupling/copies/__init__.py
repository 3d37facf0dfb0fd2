"""Copies of models that run without a trace of it: on meta, or as they are."""

from secateur.coupling.copies._meta import moved, on_meta, running, undisturbed

__all__ = ["moved", "on_meta", "running", "undisturbed"]
