"""Fixtures of the tests of training."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from longrope_vllm import Factors, Geometry, write_factors
from tiny_models import byte_tokenizer, tiny_llama


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Models are tiny, and tests run side by side."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A tiny random Llama with a window of 256 and a token for each character."""
    return byte_tokenizer(tiny_llama(tmp_path / "model"))


@pytest.fixture
def factors(model: Path) -> Path:
    """YaRN for it up to 1,024 tokens, beside it."""
    path = model.parent / "factors.json"
    write_factors(path, Factors.from_baseline("yarn", Geometry.from_checkpoint(model), 1024))
    return path


@pytest.fixture
def text(tmp_path: Path) -> Path:
    """Documents of 40 to 900 characters, one a line."""
    import json

    path = tmp_path / "text.jsonl"
    lines = [
        json.dumps({"text": f"{number} bottles of beer on the wall. " * (1 + number % 23)}) for number in range(400)
    ]
    path.write_text("\n".join(lines))
    return path
