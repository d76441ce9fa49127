"""Oracle: the peak of resident memory of a process that trains; sums by hand; steps that were published."""

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import peak_training
from longrope_training.fit import check_fit
from longrope_training.memory_plan import Layout, TrainingMemory, plan_of, resolved_tuning
from longrope_training.model_shape import ModelShape
from longrope_training.plan_ladder import climb
from longrope_training.recipe import DataSource, Recipe, Stage
from longrope_training.step_time import tokens_per_second
from longrope_vllm import Factors, Geometry, write_factors
from longrope_vllm.cli.main import main
from longrope_vllm.errors import EXIT_CODE, CheckpointError, TrainingError
from longrope_vllm.gpus import KNOWN, parse_gpus
from published_models import LLAMA3_8B
from tiny_models import LONG, byte_tokenizer, tiny_llama

SHARED = Layout(length=1 << 20, tuning="full", parallel="sp", processes=8, ways=8)


@pytest.fixture
def llama(tmp_path: Path) -> Path:
    """The configuration of Llama 3 8B alone."""
    folder = tmp_path / "llama3-8b"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(LLAMA3_8B))
    return folder


def test_what_a_step_takes_is_what_was_planned(tmp_path: Path) -> None:
    """One case for each of the measured constants: the MLP leads, what is kept leads, everything is kept."""
    found = subprocess.run(
        [sys.executable, peak_training.__file__, str(tmp_path)],
        check=True,
        capture_output=True,
        text=True,
        # blocks go back as soon as they are free, so that the peak is that of what is in use
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "MALLOC_MMAP_THRESHOLD_": "131072"},
    )
    steps = [json.loads(line) for line in found.stdout.splitlines() if line.startswith("{")]
    assert [one["name"] for one in steps] == ["warm", "wide", "deep", "all kept"]
    for one in steps[1:]:
        assert one["used"] > 50e6, one  # far above what a process takes for other reasons
        assert 0.8 * one["planned"] < one["used"] < 1.2 * one["planned"], one


def test_parameters_are_those_of_the_weights_or_of_the_configuration(tmp_path: Path, llama: Path) -> None:
    from transformers import AutoModelForCausalLM

    folder = tiny_llama(tmp_path / "tiny")
    parameters = sum(weight.numel() for weight in AutoModelForCausalLM.from_pretrained(folder).parameters())
    counted = ModelShape.of(folder)
    assert counted.parameters == parameters
    (folder / "model.safetensors").unlink()
    assert ModelShape.of(folder) == counted
    assert ModelShape.of(llama).parameters == 8_030_261_248  # as its model card counts


def test_adapters_are_those_of_peft(tmp_path: Path) -> None:
    peft = pytest.importorskip("peft")
    from transformers import AutoModelForCausalLM

    folder = tiny_llama(tmp_path)
    config = peft.LoraConfig(r=4, target_modules="all-linear")
    adapted = peft.get_peft_model(AutoModelForCausalLM.from_pretrained(folder), config)
    trained = sum(weight.numel() for weight in adapted.parameters() if weight.requires_grad)
    assert ModelShape.of(folder).adapters(4) == trained


def test_parts_are_the_sums_that_one_makes_by_hand(llama: Path) -> None:
    shape = ModelShape.of(llama)
    found = TrainingMemory.of(shape, SHARED)
    assert found.weights == 6 * shape.parameters // 8
    assert found.gradients + found.optimizer == pytest.approx(12 * shape.parameters / 8, abs=8)
    assert found.kept == 131_072 * 4096 * 32 * 2
    assert found.exchange == 2 * 2 * 131_072 * 2 * 128 * (32 + 8)  # to and fro, queries and results, keys and values
    offloaded = TrainingMemory.of(shape, replace(SHARED, offload=True))
    assert (offloaded.kept, offloaded.host) == (found.kept // 16, found.kept - found.kept // 16)
    assert sum(found.parts.values()) < found.needed < 1.2 * sum(found.parts.values()) + 2e9


def test_a_ring_takes_keys_and_values_and_heads_that_are_few_are_copied(llama: Path) -> None:
    shape = ModelShape.of(llama)
    assert TrainingMemory.of(shape, replace(SHARED, parallel="cp")).exchange == 8 * 131_072 * 2 * 128 * 8
    sixteen = replace(SHARED, processes=16, ways=16)
    assert TrainingMemory.of(shape, sixteen).exchange == 4 * 65_536 * 2 * 128 * (32 + 16)


def test_every_lever_takes_less(llama: Path) -> None:
    shape = ModelShape.of(llama)
    layout = Layout(length=131_072, tuning="full", checkpointing=False)
    needed = [TrainingMemory.of(shape, layout).needed]
    levers: list[dict[str, Any]] = [
        {"checkpointing": True},
        {"mlp_tokens": 8192},
        {"offload": True},
        {"tuning": "lora"},
        {"parallel": "sp", "processes": 8, "ways": 8},
    ]
    for lever in levers:
        layout = replace(layout, **lever)
        needed.append(TrainingMemory.of(shape, layout).needed)
    assert needed == sorted(needed, reverse=True)
    assert len(set(needed)) == len(needed)


def test_a_published_step_fits_and_takes_about_as_long(llama: Path) -> None:
    """An 8B model on rows of 1,048,576 tokens over eight H100 by Ulysses: 373 to 380 seconds a step, 56 GB a GPU."""
    shape = ModelShape.of(llama)
    layout = replace(SHARED, mlp_tokens=8192)
    assert 40e9 < TrainingMemory.of(shape, replace(layout, offload=True)).needed < 80e9
    seconds = layout.length / tokens_per_second(shape, layout, KNOWN["h100-80"].flops)
    assert 0.7 * 376 < seconds < 1.3 * 376


def test_seven_billions_are_adapted_and_less_is_tuned_whole() -> None:
    assert resolved_tuning("auto", 6_738_415_616) == "lora"  # LLaMA2-7B
    assert resolved_tuning("auto", 3_821_079_552) == "full"  # Phi-3-mini
    assert resolved_tuning("full", 10**12) == "full"


def recipe_for(folder: Path, **asked: Any) -> Recipe:
    write_factors(folder / "factors.json", Factors.from_baseline("yarn", Geometry.from_checkpoint(folder), LONG))
    values: dict[str, Any] = {
        "model": folder,
        "out": folder / "out",
        "factors": folder / "factors.json",
        "stages": (Stage(length=512, steps=1), Stage(length=LONG, steps=1)),
        "data": (DataSource(source="stdlib"),),
        "device": "cpu",
        "dtype": "float32",
    }
    return Recipe(**values | asked)


def test_a_run_is_planned_for_its_longest_rows_and_refused_where_it_cannot_fit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = byte_tokenizer(tiny_llama(tmp_path / "tiny"))
    recipe = recipe_for(folder)
    planned = plan_of(recipe, check_fit(recipe))
    assert planned.layout.length == LONG
    assert planned.weights == 4 * ModelShape.of(folder).parameters
    planned.check()
    assert f"rows of 1,024 tokens (weights {planned.weights / 1e9:.1f} GB, " in str(planned)
    monkeypatch.setattr("longrope_training.memory_plan.available", lambda device: planned.needed - 1)
    with pytest.raises(
        TrainingError, match=r"memory in each process for rows of 1,024 tokens, .* use --tuning lora, s"
    ):
        plan_of(recipe, check_fit(recipe)).check()
    whole = recipe_for(folder, checkpointing=False)
    with pytest.raises(TrainingError, match="use --checkpointing, --tuning lora, shorter stages"):
        plan_of(whole, check_fit(whole)).check()


def test_processes_on_one_cpu_share_its_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = recipe_for(byte_tokenizer(tiny_llama(tmp_path / "tiny")))
    monkeypatch.setattr("longrope_training.memory_plan.available", lambda device: 10**9)
    assert plan_of(recipe, check_fit(recipe, processes=2)).available == 10**9 // 2


def test_rows_of_each_process_take_gradients_twice_and_adapters_leave_the_embedding_they_began_with(
    llama: Path,
) -> None:
    shape = ModelShape.of(llama)
    alone = Layout(length=8192, tuning="lora")
    trained = shape.adapters(8) + shape.norms + shape.embedding
    found = TrainingMemory.of(shape, alone)
    assert (found.weights, found.gradients) == (6 * trained + 2 * shape.parameters, 4 * trained)
    assert TrainingMemory.of(shape, replace(alone, processes=8)).gradients == 8 * trained


def test_offload_is_refused_where_the_host_has_no_room(llama: Path) -> None:
    shape, layout = ModelShape.of(llama), Layout(length=131_072, tuning="lora", offload=True)
    needed = TrainingMemory.of(shape, layout).host
    TrainingMemory.of(shape, layout, host_available=needed).check()
    with pytest.raises(TrainingError, match=r"of the host's memory for each process with --offload, found"):
        TrainingMemory.of(shape, layout, host_available=needed - 1).check()


def test_the_first_rung_that_fits_is_taken(llama: Path) -> None:
    shape = ModelShape.of(llama)
    rungs = climb(shape, parse_gpus("8xh100"), (8192, 131_072, 262_144, 1 << 20))
    assert all(rung.fits for rung in rungs)
    assert [rung.memory.layout.parallel for rung in rungs] == ["single", "single", "sp", "sp"]
    assert rungs[0].flags == "--tuning lora --parallel single"
    assert rungs[-1].flags == "--tuning full --mlp-tokens 8k --offload --parallel sp --ways 8"
    (whole,) = climb(shape, parse_gpus("h100"), (8192,), tuning="full")
    assert not whole.fits  # 16 bytes for each of 8 billion parameters


def test_experts_cannot_be_counted_without_weights(llama: Path) -> None:
    (llama / "config.json").write_text(json.dumps(LLAMA3_8B | {"num_local_experts": 8}))
    with pytest.raises(CheckpointError, match="those of a mixture of experts cannot be counted"):
        ModelShape.of(llama)


def test_the_command_prints_a_table_and_the_same_in_json(llama: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["plan", "train", str(llama), "--gpus", "8xh100-80,24", "--lengths", "128k,1M"]
    assert main(words) == 0
    table = capsys.readouterr().out
    assert "llama3-8b: 8.03B parameters, 32 layers" in table
    assert "8xh100-80: 80 GB each" in table
    assert main([*words, "--json"]) == 0
    plans = json.loads(capsys.readouterr().out)
    assert [(plan["gpus"], plan["length"], plan["fits"]) for plan in plans] == [
        ("8xh100-80", 1 << 17, True),
        ("8xh100-80", 1 << 20, True),
        ("24", 1 << 17, False),
        ("24", 1 << 20, False),
    ]
    assert plans[2]["tokens_per_second"] is None
    assert f"{plans[1]['tokens_per_second']:,.0f}" in table


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["train", "none"], "Expected a checkpoint directory, found none"),
        (["train", "MODEL", "--gpus", "tpu"], "Expected GPUs such as"),
        (["train", "MODEL", "--lengths", "far"], "Expected a length in tokens"),
        (["train", "MODEL", "--lengths", ","], "Expected at least one kind of --gpus and one of --lengths"),
        (["train", "MODEL", "--gpus", "h100", "--parallel", "sp"], "Expected several GPUs for --parallel sp, found"),
    ],
)
def test_a_plan_of_what_is_not_there_is_refused(
    words: list[str], said: str, llama: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["plan", *(str(llama) if word == "MODEL" else word for word in words)]) == EXIT_CODE
    assert said in capsys.readouterr().err
