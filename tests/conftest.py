"""Fixtures that several folders of tests share."""

import fcntl
import os
from pathlib import Path

import pytest


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
