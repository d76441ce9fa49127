"""Optional dependencies: one import helper, one message with the exact remedy."""

import importlib
from types import ModuleType
from typing import Literal

from longrope_vllm.errors import MissingExtraError

Extra = Literal["gpu", "cpu", "ask", "demo", "verify", "search", "train", "sp", "eval", "http", "dev"]


def require(module: str, extra: Extra) -> ModuleType:
    """Import ``module``, or raise ``MissingExtraError`` naming the extra that brings it.

    An import that fails inside an installed package is a fault of that installation and propagates unchanged.
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name is None or error.name.partition(".")[0] != module.partition(".")[0]:
            raise
        raise MissingExtraError(
            f'{module} is needed here and is not installed: run pip install "longrope-vllm[{extra}]".'
        ) from None
