"""Fixtures that several folders of tests share."""

import fcntl
import os
from pathlib import Path

import pytest


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Modules that take longest first: of two workers, none shall begin one when the other has nothing left to do."""
    modules: dict[Path, list[pytest.Item]] = {}
    for item in items:
        modules.setdefault(item.path, []).append(item)
    items[:] = [item for module in sorted(modules.values(), key=_rank) for item in module]


def _rank(module: list[pytest.Item]) -> tuple[bool, bool, int]:
    def none_is(mark: str) -> bool:
        return all(item.get_closest_marker(mark) is None for item in module)

    return none_is("slow"), none_is("vllm"), -len(module)


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The checkpoint of ``trained_llama``, for reading only: made once however many workers run the tests."""
    from trained_llama import trained_llama

    root = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        root = root.parent  # each worker has a folder of its own in that of the run
    folder = root / "trained_llama"
    with (root / "trained_llama.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # the first to come trains, the others wait; released when closed
        if not folder.exists():
            trained_llama(root / "trained_llama_unfinished").rename(folder)
    return folder
