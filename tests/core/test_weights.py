"""Oracle: safetensors itself, and the model's own parameters."""

from pathlib import Path

import pytest
from safetensors.torch import load_file

from longrope_vllm.errors import CheckpointError
from longrope_vllm.weights import INDEX, weight_bytes, weight_files
from tiny_models import tiny_llama


def split(folder: Path) -> Path:
    """The checkpoint once more, in files of 200 kB."""
    from transformers import AutoModelForCausalLM

    AutoModelForCausalLM.from_pretrained(folder).save_pretrained(folder, max_shard_size="200kB")
    (folder / "model.safetensors").unlink(missing_ok=True)
    assert (folder / INDEX).is_file()
    return folder


@pytest.mark.parametrize("several", [False, True])
def test_headers_say_what_safetensors_loads(several: bool, tmp_path: Path) -> None:
    folder = tiny_llama(tmp_path)
    if several:
        split(folder)
    files = weight_files(folder)
    assert (len(files) > 1) == several
    elements = 0
    for file in files:
        loaded = load_file(file.path)
        assert {name: list(tensor.shape) for name, tensor in loaded.items()} == {
            name: tensor["shape"] for name, tensor in file.tensors.items()
        }
        elements += sum(tensor.numel() for tensor in loaded.values())
    assert weight_bytes(folder, 2) == 2 * elements


def test_a_file_that_is_missing_or_damaged_is_refused(tmp_path: Path) -> None:
    assert weight_files(tmp_path) == ()
    (tmp_path / "old.bin").write_bytes(b"12345")
    assert weight_bytes(tmp_path, 2) == 5
    path = tiny_llama(tmp_path) / "model.safetensors"
    whole = path.read_bytes()
    path.write_bytes(whole[:-1])
    with pytest.raises(CheckpointError, match="it was cut off"):
        weight_files(tmp_path)
    path.write_bytes(b"not one")
    with pytest.raises(CheckpointError, match="Expected a safetensors file"):
        weight_files(tmp_path)
    path.write_bytes(whole)
    split(tmp_path)
    next(tmp_path.glob("*.safetensors")).unlink()
    with pytest.raises(CheckpointError, match="found no file: download the checkpoint again"):
        weight_files(tmp_path)
