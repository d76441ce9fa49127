"""Which part of a process's time is the plugin's, by samples of the main thread's stack.

Time is the plugin's when, from the innermost frame outwards, a frame of ours comes before a function that ours wraps or
overrides, or when a module is being imported that a process without the plugin does not import. It does not matter
which module of ours does what, nor whether it imports early what would be imported anyway.
"""

import gc
import importlib
import sys
import threading
import time
from collections import Counter
from pathlib import Path
from types import CodeType, FunctionType

PACKAGE = "longrope_vllm"
TICK = 0.005
"""Seconds between samples: rare enough to add nothing to what is measured."""


class Sampler(threading.Thread):
    """Seconds of the main thread by its stack, innermost function first."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.seconds: Counter[tuple[CodeType, ...]] = Counter()
        self._stop_asked = threading.Event()

    def run(self) -> None:
        """Sample until told to stop."""
        main, last = threading.main_thread().ident, time.perf_counter()
        assert main is not None
        while not self._stop_asked.wait(TICK):
            frame, stack = sys._current_frames().get(main), []
            while frame is not None:
                stack.append(frame.f_code)
                frame = frame.f_back
            now = time.perf_counter()
            self.seconds[tuple(stack)] += now - last
            last = now

    def plugin(self, stock_files: set[str]) -> float:
        """End; seconds that are the plugin's. ``stock_files`` are the modules that stock vLLM imports."""
        self._stop_asked.set()
        self.join()
        package = str(Path(importlib.import_module(PACKAGE).__file__ or "").parent)
        wrapped = originals(package)
        return sum(seconds for stack, seconds in self.seconds.items() if is_ours(stack, package, stock_files, wrapped))


def is_ours(stack: tuple[CodeType, ...], package: str, stock_files: set[str], wrapped: set[CodeType]) -> bool:
    """Whether the innermost frame that decides is the plugin's."""
    for code in stack:
        if code.co_filename.startswith(package):
            return True
        if code in wrapped:
            return False
        if code.co_name == "<module>" and not code.co_filename.startswith("<"):  # <string> is a class being written
            return code.co_filename not in stock_files
    return False


def originals(package: str) -> set[CodeType]:
    """vLLM's functions that ours wrap or override: what they take would be taken without us."""
    found: set[CodeType] = set()
    gc.unfreeze()  # vLLM freezes what there is when an engine has started, and frozen objects are not listed
    for item in gc.get_objects():
        kind = type(item)  # isinstance would ask objects that answer with a warning
        if kind is FunctionType and item.__code__.co_filename.startswith(package):
            found.add(getattr(getattr(item, "__wrapped__", None), "__code__", item.__code__))
        elif issubclass(kind, type) and str(item.__module__).startswith(PACKAGE):
            for base in item.__mro__[1:]:
                overridden = (getattr(vars(base).get(name), "__code__", None) for name in vars(item))
                found |= {code for code in overridden if code}
    return {code for code in found if not code.co_filename.startswith(package)}
