"""The files of a checkpoint's weights, read by their headers alone: names, shapes and places, no values.

Format: https://huggingface.co/docs/safetensors, 8 bytes of length (little-endian), a header in JSON, then the values.
"""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from longrope_vllm.errors import CheckpointError

INDEX = "model.safetensors.index.json"
"""Names the file of each tensor, where there are several."""

HEAD = "lm_head.weight"
"""Of a language model; where it is tied to the embedding, a file may hold that once more under this name."""

_PREFIX = 8  # bytes that say how long the header is
_LONGEST = 100_000_000  # bytes of a header, as safetensors itself allows


@dataclass(frozen=True, kw_only=True)
class WeightFile:
    """One safetensors file."""

    path: Path
    head: bytes
    """All before the values, as it stands in the file."""
    tensors: Mapping[str, Mapping[str, Any]]
    """Name to ``dtype``, ``shape`` and ``data_offsets``, the last counted from the first value."""

    @property
    def elements(self) -> int:
        """Numbers in all tensors."""
        return sum(math.prod(tensor["shape"]) for tensor in self.tensors.values())


def weight_files(checkpoint: Path) -> tuple[WeightFile, ...]:
    """The safetensors files of ``checkpoint``, none where it has weights of another form or no weights.

    Raises ``CheckpointError`` for a file that is missing or damaged.
    """
    index = checkpoint / INDEX
    if index.is_file():
        try:
            names = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise CheckpointError(f"Expected an index of weights in {index}, found something else: {error}.") from None
        return tuple(_read(checkpoint / name) for name in names)
    alone = checkpoint / "model.safetensors"
    return (_read(alone),) if alone.is_file() else ()


def count_elements(files: Sequence[WeightFile], *, tied: bool) -> int:
    """Numbers in all tensors of a checkpoint, those of a head that is ``tied`` to the embedding once."""
    sizes = {name: math.prod(tensor["shape"]) for file in files for name, tensor in file.tensors.items()}
    return sum(size for name, size in sizes.items() if not (tied and name == HEAD))


def weight_bytes(checkpoint: Path, size: int) -> int:
    """Bytes of the weights in a number format of ``size`` bytes; of other files than safetensors, as they are.

    Raises ``CheckpointError``.
    """
    files = weight_files(checkpoint)
    if not files:
        return sum(path.stat().st_size for path in checkpoint.glob("*.bin"))
    return size * sum(file.elements for file in files)


def _read(path: Path) -> WeightFile:
    try:
        with path.open("rb") as file:
            prefix = file.read(_PREFIX)
            length = int.from_bytes(prefix, "little")
            if len(prefix) < _PREFIX or length > _LONGEST:
                raise ValueError("no header")
            text = file.read(length)
        header = json.loads(text)
        tensors = {name: tensor for name, tensor in header.items() if name != "__metadata__"}
        end = max((tensor["data_offsets"][1] for tensor in tensors.values()), default=0)
    except FileNotFoundError:
        raise CheckpointError(f"Expected weights in {path}, found no file: download the checkpoint again.") from None
    except (ValueError, KeyError, TypeError, AttributeError, IndexError) as error:
        raise CheckpointError(f"Expected a safetensors file, found another in {path} ({error}).") from None
    if path.stat().st_size != _PREFIX + length + end:
        raise CheckpointError(
            f"Expected {_PREFIX + length + end:,} bytes in {path}, found {path.stat().st_size:,}: it was cut off, so "
            "download it again."
        )
    return WeightFile(path=path, head=prefix + text, tensors=tensors)
