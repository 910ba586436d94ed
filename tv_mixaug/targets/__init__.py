"""Targets: what a plan does to images, labels, masks and detection targets.

This folder imports batch and engine.
"""

from tv_mixaug.targets.rules import mix_fields

__all__ = ["mix_fields"]
