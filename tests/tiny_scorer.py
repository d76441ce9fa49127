"""Passes of a search over tiny random checkpoints: what they are scored with and on."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from longrope_search.candidate import Candidate
from longrope_search.model.passages import Passage
from longrope_search.model.scorer import Scorer
from longrope_vllm import Geometry
from tiny_models import VOCABULARY, plain_phi3, tiny_llama, tiny_qwen3

CPU = torch.device("cpu")
MAKERS: dict[str, Callable[[Path], Path]] = {"llama": tiny_llama, "qwen3": tiny_qwen3, "phi3": plain_phi3}


def checkpoints_in(folder: Path) -> dict[str, Path]:
    """One checkpoint of each of ``MAKERS``."""
    return {name: make(folder / name) for name, make in MAKERS.items()}


def candidate_for(geometry: Geometry, *, start_tokens: int = 0) -> Candidate:
    """Factors and an attention factor that are not 1."""
    factors = tuple(np.linspace(1.1, 3.9, geometry.pairs).tolist())
    return Candidate(factors=factors, attention_factor=1.2, start_tokens=start_tokens)


def passage_of(length: int, *, counted: int | None = None) -> Passage:
    """Random tokens, of which the last ``counted`` count (all but the first when left out)."""
    tokens = torch.randint(VOCABULARY, (length,), generator=torch.Generator().manual_seed(1))
    return Passage(name="random", tokens=tokens, counted=counted or length - 1)


def scorer(folder: Path, dtype: torch.dtype = torch.float32) -> Scorer:
    """Of a checkpoint on the CPU, with the rope it states."""
    return Scorer(folder, Geometry.from_checkpoint(folder), dtype=dtype, device=CPU)
