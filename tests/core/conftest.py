"""Fixtures of the core's tests.

Hypothesis draws the same examples in every run and has no deadline: the first call of a test imports torch.
"""

import resource
import signal
from collections.abc import Callable, Iterator

import pytest
from hypothesis import settings

settings.register_profile("repeatable", deadline=None, derandomize=True)
settings.load_profile("repeatable")


@pytest.fixture
def limit_file_size() -> Iterator[Callable[[int], None]]:
    """``limit_file_size(n)``: no file may grow past ``n`` bytes, so that writing fails part way as on a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    yield lambda limit: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, before[1]))
    resource.setrlimit(resource.RLIMIT_FSIZE, before)
    signal.signal(signal.SIGXFSZ, handler)
