"""``longrope train merge``: the weighted average of a tuned checkpoint and the one that it was tuned from.

Averages of weights that were tuned from the same ones keep more of what both can do than either (model soups, arXiv
2203.05482; WiSE-FT for an average with the base, arXiv 2109.01903): some of the short-context quality that tuning took
comes back. One tensor of each is in memory at a time, whatever the size of the models.
"""

import argparse
import os
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from io import BufferedReader
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from torch import Tensor

from longrope_vllm.errors import CheckpointError, TrainingError
from longrope_vllm.geometry import read_config, text_config
from longrope_vllm.weights import HEAD, WeightFile, weight_files

_DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
}
"""Number formats that have an average, by their names in safetensors."""

_WEIGHTS = (".safetensors", ".bin", ".pt", ".pth", ".gguf")

_Places = Mapping[str, tuple[WeightFile, Mapping[str, Any]]]
"""Name of a tensor to its file and what the header says of it."""


def merge_command(prog: str, arguments: Sequence[str]) -> int:
    """``longrope train merge ARGUMENTS``. Raises ``LongRopeError``."""
    parser = argparse.ArgumentParser(prog=prog, description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("tuned", type=Path, help="the tuned checkpoint, whose config and tokenizer are kept")
    parser.add_argument("base", type=Path, help="the checkpoint that it was tuned from")
    parser.add_argument("--share", type=float, default=0.5, help="share of the tuned one in the average (0.5)")
    parser.add_argument("--out", type=Path, required=True, help="folder to write, which is not there yet")
    asked = parser.parse_args(arguments)
    tensors = merge(asked.tuned, asked.base, share=asked.share, out=asked.out)
    console = Console(highlight=False, soft_wrap=True)
    console.print(
        f"{asked.out}: {tensors} tensors, {asked.share:g} of {asked.tuned} and {1 - asked.share:g} of {asked.base}",
        markup=False,
    )
    return 0


def merge(tuned: Path, base: Path, *, share: float, out: Path) -> int:
    """Write ``share`` of ``tuned`` and the rest of ``base``, tensor by tensor, to the new folder ``out``.

    Arithmetic is float32 (float64 where a tensor is); each tensor keeps the number format, and each file the name and
    layout, that it has in ``tuned``, from which all that is not weights is taken. The folder appears when it is
    complete. Returns how many tensors were written. Raises ``TrainingError`` or ``CheckpointError`` before anything is
    written, ``OSError`` and no folder when the disk is full.
    """
    if not 0 < share < 1:
        raise TrainingError(f"Expected a --share between 0 and 1, found {share:g}.")
    if out.exists() or not out.absolute().parent.is_dir():
        raise TrainingError(f"Expected a folder that is not there yet, in one that is, for --out, found {out}.")
    files = _files(tuned)
    ours = _places(files)
    theirs = _places(_files(base))
    if text_config(read_config(tuned)).get("tie_word_embeddings", False):
        theirs = _with_the_same_head(theirs, ours)
    _check_alike(ours, theirs, tuned, base)
    unfinished = Path(tempfile.mkdtemp(dir=out.absolute().parent, prefix=f".{out.name}."))
    try:
        unfinished.chmod(0o755)
        for path in sorted(tuned.iterdir()):
            if path.is_file() and path.suffix not in _WEIGHTS:
                shutil.copyfile(path, unfinished / path.name)
        for file in files:
            _write(unfinished / file.path.name, file, theirs, share)
        unfinished.rename(out)
    except BaseException:
        shutil.rmtree(unfinished)
        raise
    return len(ours)


def _files(checkpoint: Path) -> tuple[WeightFile, ...]:
    if not checkpoint.is_dir():
        raise CheckpointError(f"Expected a checkpoint directory, found none at {checkpoint}: check the path.")
    files = weight_files(checkpoint)
    if not files:
        raise TrainingError(
            f"Expected weights in safetensors files in {checkpoint}, found none: convert them, or merge adapters first."
        )
    return files


def _places(files: Sequence[WeightFile]) -> _Places:
    return {name: (file, tensor) for file in files for name, tensor in file.tensors.items()}


def _with_the_same_head(theirs: _Places, ours: _Places) -> _Places:
    """``theirs`` with the tied head if ``ours`` hold it, and without if not: files may hold it twice or once."""
    if HEAD not in ours:
        return {name: place for name, place in theirs.items() if name != HEAD}
    embeddings = [place for name, place in theirs.items() if name.endswith("embed_tokens.weight")]
    return {HEAD: embeddings[0], **theirs} if embeddings else theirs


def _check_alike(ours: _Places, theirs: _Places, tuned: Path, base: Path) -> None:
    """Raise ``TrainingError`` unless both have the same tensors in the same shapes."""
    for name in sorted(ours.keys() ^ theirs.keys()):
        has, lacks = (tuned, base) if name in ours else (base, tuned)
        raise TrainingError(
            f"Expected the same weights in both checkpoints, found {name} in {has} and none in {lacks}: they are not "
            "of one model."
        )
    for name, (_, tensor) in ours.items():
        other = theirs[name][1]
        if tensor["shape"] != other["shape"]:
            raise TrainingError(
                f"Expected weights of the same shape, found {name} as {tensor['shape']} in {tuned} and as "
                f"{other['shape']} in {base}: they are not of one model."
            )
        for place, found in ((tuned, tensor), (base, other)):
            if found["dtype"] not in _DTYPES:
                raise TrainingError(
                    f"Expected weights in {', '.join(_DTYPES)}, found {name} in {found['dtype']} in {place}: merge "
                    "the checkpoint before it is quantized."
                )


def _write(path: Path, file: WeightFile, theirs: _Places, share: float) -> None:
    """Write the averages of all tensors in ``file``, each to the place that it has there."""
    with path.open("wb") as out, file.path.open("rb") as mine:
        out.write(file.head)
        for name, tensor in sorted(file.tensors.items(), key=lambda entry: int(entry[1]["data_offsets"][0])):
            other, place = theirs[name]
            with other.path.open("rb") as beside:
                averaged = _average(_read(mine, file, tensor), _read(beside, other, place), share)
            out.seek(len(file.head) + tensor["data_offsets"][0])
            out.write(averaged.view(torch.uint8).numpy().data)
        out.flush()
        os.fsync(out.fileno())


def _read(stream: BufferedReader, file: WeightFile, tensor: Mapping[str, Any]) -> Tensor:
    """The values of one tensor, flat, in their own number format."""
    begin, end = tensor["data_offsets"]
    stream.seek(len(file.head) + begin)
    content = bytearray(end - begin)
    stream.readinto(content)
    if not content:
        return torch.empty(0, dtype=_DTYPES[tensor["dtype"]])
    return torch.frombuffer(content, dtype=_DTYPES[tensor["dtype"]])


def _average(tuned: Tensor, base: Tensor, share: float) -> Tensor:
    """``share`` of one and the rest of the other, in the number format of the first."""
    exact = torch.float64 if torch.float64 in (tuned.dtype, base.dtype) else torch.float32
    return (share * tuned.to(exact) + (1 - share) * base.to(exact)).to(tuned.dtype)
