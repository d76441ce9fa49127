"""Oracle: the peak of resident memory of a process that makes the passes, and the model's own parameters."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import peak_memory
from longrope_search.model import memory_plan as module
from longrope_search.model.memory_plan import MemoryPlan
from longrope_vllm.errors import SearchError
from longrope_vllm.memory import available
from tiny_models import tiny_llama

CPU = torch.device("cpu")


def plan_of(
    folder: Path, *, length: int = 4096, dtype: torch.dtype = torch.float32, gradient: bool = False
) -> MemoryPlan:
    return MemoryPlan.of(folder, length=length, dtype=dtype, device=CPU, gradient=gradient)


def test_what_passes_take_is_between_half_of_the_plan_and_a_fifth_more(tmp_path: Path) -> None:
    """Half, because logits and layers are never in memory together; activations and logits lead in one case each."""
    found = subprocess.run(
        [sys.executable, peak_memory.__file__, str(tmp_path)],
        check=True,
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    passes = [json.loads(line) for line in found.stdout.splitlines() if line.startswith("{")]  # DeepSpeed prints too
    assert [(one["name"], one["gradient"]) for one in passes[2:]] == [
        ("wide", False),
        ("wide", True),
        ("words", False),
        ("words", True),
    ]
    for one in passes[2:]:
        assert one["used"] > 150e6, one  # far above what a process takes for other reasons
        assert 0.45 * one["planned"] < one["used"] < 1.2 * one["planned"], one


@pytest.mark.parametrize(("dtype", "size"), [(torch.float32, 4), (torch.bfloat16, 2)])
def test_weights_count_in_the_number_format_they_are_loaded_in(tmp_path: Path, dtype: torch.dtype, size: int) -> None:
    from transformers import AutoModelForCausalLM

    folder = tiny_llama(tmp_path)
    parameters = sum(weight.numel() for weight in AutoModelForCausalLM.from_pretrained(folder).parameters())
    assert plan_of(folder, dtype=dtype).weights == size * parameters


def test_a_gradient_takes_more_and_logits_no_more_with_length(tmp_path: Path) -> None:
    folder = tiny_llama(tmp_path)
    forward, backward = plan_of(folder), plan_of(folder, gradient=True)
    kept = 4096 * 4 * 128 * 4  # the hidden state of each of four layers
    assert backward.activations > 2 * forward.activations + kept
    longer = plan_of(folder, length=8192)
    assert longer.activations == 2 * forward.activations
    assert longer.logits == forward.logits


def test_on_cuda_a_gradient_takes_about_what_an_evaluation_takes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Sizes of Llama 3 8B at 128k tokens; its weights, 16 GB, are the same for both and left out here."""
    sizes = {"hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": 32, "num_attention_heads": 32}
    config = sizes | {"num_key_value_heads": 8, "vocab_size": 128_256, "max_position_embeddings": 8192}
    (tmp_path / "config.json").write_text(json.dumps(config))
    monkeypatch.setattr(module, "available", lambda device: 80 * 10**9)
    arguments = {"length": 131_072, "dtype": torch.bfloat16, "device": torch.device("cuda")}
    forward, backward = (MemoryPlan.of(tmp_path, **arguments, gradient=gradient) for gradient in (False, True))
    assert backward.needed < 1.7 * forward.needed
    assert backward.needed + 16 * 10**9 < 80 * 10**9


@pytest.mark.parametrize("gradient", [False, True])
def test_what_cannot_fit_is_refused_in_a_sentence_that_says_what_to_do(
    gradient: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tiny_llama(tmp_path)
    needed = plan_of(folder, gradient=gradient).needed
    monkeypatch.setattr(module, "available", lambda device: needed)
    plan_of(folder, gradient=gradient).check()
    monkeypatch.setattr(module, "available", lambda device: needed - 1)
    other = "--method evolution or cma, which take less, a shorter target" if gradient else "use a shorter target"
    with pytest.raises(
        SearchError, match=rf"memory for a pass over 4,096 tokens, .*{re.escape(other)}, --dtype bfloat16"
    ):
        plan_of(folder, gradient=gradient).check()


def test_the_plan_says_its_parts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "available", lambda device: 23_400_000_000)
    text = str(plan_of(tiny_llama(tmp_path), length=2_000_000))
    assert text.startswith("memory: about ")
    assert "a pass over 2,000,000 tokens" in text
    assert text.endswith("23.4 GB available")
    told, *parts = (float(number) for number in re.findall(r"([\d.]+) GB", text)[:4])
    assert told == pytest.approx(sum(parts), abs=0.2)


def test_what_is_available_is_some_of_what_the_machine_has() -> None:
    assert 0 < available(CPU) < os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
