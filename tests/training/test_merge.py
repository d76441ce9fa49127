"""Oracle: both models loaded whole by transformers, and their weights averaged directly."""

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from longrope_training.merge import merge, merge_command
from longrope_vllm.errors import CheckpointError, LongRopeError, TrainingError
from longrope_vllm.weights import HEAD
from tiny_models import byte_tokenizer, stretched, tiny_llama

EMBEDDING = "model.embed_tokens.weight"


@pytest.fixture
def base(tmp_path: Path) -> Path:
    return tiny_llama(tmp_path / "base", seed=0)


@pytest.fixture
def tuned(tmp_path: Path) -> Path:
    """Other weights, a longrope config and a tokenizer."""
    return byte_tokenizer(stretched(tiny_llama(tmp_path / "tuned", seed=1)))


def saved(folder: Path, **how: Any) -> Path:
    """The checkpoint once more, in another number format or in several files."""
    from transformers import AutoModelForCausalLM

    shard = how.pop("max_shard_size", "1GB")
    model = AutoModelForCausalLM.from_pretrained(folder, **how)
    (folder / "model.safetensors").unlink()
    config = (folder / "config.json").read_bytes()
    model.save_pretrained(folder, max_shard_size=shard)
    (folder / "config.json").write_bytes(config)
    return folder


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return {name: value for file in sorted(folder.glob("*.safetensors")) for name, value in load_file(file).items()}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("share", [0.5, 0.25])
def test_weights_are_averaged_in_float32_and_kept_in_their_format(
    dtype: torch.dtype, share: float, tuned: Path, base: Path, tmp_path: Path
) -> None:
    saved(tuned, dtype=dtype)
    assert merge(tuned, base, share=share, out=tmp_path / "out") == len(weights(tuned))
    ours, theirs = weights(tuned), weights(base)
    for name, found in weights(tmp_path / "out").items():
        direct = (share * ours[name].float() + (1 - share) * theirs[name].float()).to(dtype)
        assert found.dtype == dtype
        assert torch.equal(found, direct), name


def test_files_may_be_cut_differently(tuned: Path, base: Path, tmp_path: Path) -> None:
    saved(tuned, max_shard_size="300kB")
    merge(tuned, base, share=0.5, out=tmp_path / "out")
    assert len(list((tmp_path / "out").glob("*.safetensors"))) > 1
    merge(base, tuned, share=0.5, out=tmp_path / "other")
    one, other = weights(tmp_path / "out"), weights(tmp_path / "other")
    assert one.keys() == other.keys()
    for name in one:
        assert torch.equal(one[name], other[name])


def test_what_is_not_weights_is_that_of_the_tuned_one(tuned: Path, base: Path, tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM

    (tuned / "training").mkdir()
    merge(tuned, base, share=0.5, out=tmp_path / "out")
    kept = {path.name for path in tuned.iterdir() if path.is_file()}
    assert {path.name for path in (tmp_path / "out").iterdir()} == kept
    for name in kept - {"model.safetensors"}:
        assert (tmp_path / "out" / name).read_bytes() == (tuned / name).read_bytes()
    AutoModelForCausalLM.from_pretrained(tmp_path / "out")


def test_the_command_says_what_it_wrote(
    tuned: Path, base: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [str(tuned), str(base), "--share", "0.75", "--out", str(tmp_path / "out")]
    assert merge_command("longrope train merge", words) == 0
    assert f"{len(weights(base))} tensors, 0.75 of" in capsys.readouterr().out


@pytest.mark.parametrize("share", [0.0, 1.0, -1.0, float("nan")])
def test_a_share_of_nothing_is_refused(share: float, tuned: Path, base: Path, tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match="Expected a --share between 0 and 1, found"):
        merge(tuned, base, share=share, out=tmp_path / "out")


def test_checkpoints_of_two_models_are_refused(tuned: Path, base: Path, tmp_path: Path) -> None:
    def refused(said: str, changed: dict[str, torch.Tensor]) -> None:
        save_file(changed, base / "model.safetensors")
        with pytest.raises(TrainingError, match=said) as found:
            merge(tuned, base, share=0.5, out=tmp_path / "out")
        assert "\n" not in str(found.value)
        assert not (tmp_path / "out").exists()

    theirs = weights(base)
    norm = "model.norm.weight"
    refused(f"found {norm} in .*tuned and none in .*base", {n: w for n, w in theirs.items() if n != norm})
    refused("found another in .*base and none in .*tuned", {**theirs, "another": torch.zeros(2)})
    refused(rf"found {norm} as \[128\] in .*tuned and as \[2, 64\]", {**theirs, norm: theirs[norm].reshape(2, 64)})
    refused(f"found {norm} in I8 in .*base", {**theirs, norm: theirs[norm].to(torch.int8)})


@pytest.mark.parametrize("twice", ["tuned", "base"])
def test_a_head_that_is_the_embedding_may_be_in_the_files_of_one(tmp_path: Path, twice: str) -> None:
    for name, seed in (("tuned", 1), ("base", 0)):
        folder = tiny_llama(tmp_path / name, seed=seed, tied=True)
        found = weights(folder)
        assert HEAD not in found
        if name == twice:
            save_file({**found, HEAD: found[EMBEDDING].clone()}, folder / "model.safetensors", {"format": "pt"})
    merge(tmp_path / "tuned", tmp_path / "base", share=0.5, out=tmp_path / "out")
    made = weights(tmp_path / "out")
    assert made.keys() == weights(tmp_path / "tuned").keys()
    ours, theirs = (weights(tmp_path / name)[EMBEDDING] for name in ("tuned", "base"))
    assert torch.equal(made[EMBEDDING], (ours + theirs) / 2)
    assert torch.equal(made.get(HEAD, made[EMBEDDING]), made[EMBEDDING])


def test_a_checkpoint_without_weights_is_refused(tuned: Path, base: Path, tmp_path: Path) -> None:
    (base / "model.safetensors").unlink()
    with pytest.raises(TrainingError, match=r"Expected weights in safetensors files in .*base, found none"):
        merge(tuned, base, share=0.5, out=tmp_path / "out")
    with pytest.raises(CheckpointError, match="Expected a checkpoint directory, found none at"):
        merge(tuned, tmp_path / "nowhere", share=0.5, out=tmp_path / "out")


def test_no_folder_is_written_over_and_none_is_left_half_written(tuned: Path, base: Path, tmp_path: Path) -> None:
    import resource

    with pytest.raises(LongRopeError, match="Expected a folder that is not there yet"):
        merge(tuned, base, share=0.5, out=tuned)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, before[1]))  # a write beyond it fails as on a full disk
    try:
        with pytest.raises(OSError, match="File too large"):
            merge(tuned, base, share=0.5, out=tmp_path / "out")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert {path.name for path in tmp_path.iterdir()} == {"tuned", "base"}
