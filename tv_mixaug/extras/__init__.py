"""Contact sheets, image files and sample pictures; the rest of the package needs none of them."""

from importlib import import_module
from types import ModuleType

__all__ = ["flowers", "io", "viz"]


def __getattr__(name: str) -> ModuleType:
    """Import a module at its first use."""
    if name in __all__:
        return import_module(f"{__name__}.{name}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
