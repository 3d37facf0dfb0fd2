"""Modules that stand where dense layers stood, and store only what survived."""
