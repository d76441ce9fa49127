"""A model for ``longrope eval``."""

from pathlib import Path

import pytest

from longrope_vllm import Factors, Geometry, write_factors
from tiny_models import LONG, byte_tokenizer, tiny_llama


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny checkpoint with a tokenizer; ``mine.json`` beside it holds factors for it."""
    folder = byte_tokenizer(tiny_llama(tmp_path_factory.mktemp("evaluated") / "tiny"))
    write_factors(folder.parent / "mine.json", Factors.from_baseline("yarn", Geometry.from_checkpoint(folder), LONG))
    return folder
