"""Replace an attribute of vLLM once, keeping the original at hand."""

from collections.abc import Callable
from functools import update_wrapper
from typing import Any


def wrap_once(owner: Any, name: str, make: Callable[[Callable[..., Any]], Callable[..., Any]]) -> None:
    """Set ``owner.name`` to ``make(original)`` unless this was done before (plugins are loaded more than once)."""
    original = getattr(owner, name)
    if getattr(original, "longrope_wrapped", False):
        return
    wrapped = make(original)
    update_wrapper(wrapped, original)
    wrapped.longrope_wrapped = True  # type: ignore[attr-defined]
    setattr(owner, name, wrapped)
