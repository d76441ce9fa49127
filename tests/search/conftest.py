"""Fixtures of the search's tests: the trained model, made once however many workers run the tests."""

import fcntl
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from trained_llama import trained_llama


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Models are tiny, and tests run side by side."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The checkpoint of ``trained_llama``, for reading only: all tests of a run share it."""
    root = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        root = root.parent  # each worker has a folder of its own in that of the run
    folder = root / "trained_llama"
    with (root / "trained_llama.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # the first to come trains, the others wait; released when closed
        if not folder.exists():
            trained_llama(root / "trained_llama_unfinished").rename(folder)
    return folder
