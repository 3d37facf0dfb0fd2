"""Whole training steps in one native call."""
