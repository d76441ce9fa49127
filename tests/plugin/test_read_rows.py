"""Every kernel against ``RopeTable.read``: the compiled one here, the Triton one in its interpreter or on a GPU."""

import os
import subprocess
import sys

import pytest
import torch

pytest.importorskip("vllm", reason="the kernels are vLLM's and Triton's")

from longrope_vllm.plugin.read_rows import read_rows
from longrope_vllm.rope import BLOCK, RopeTable, cos_sin_rows, inverse_frequencies

DEVICES = [
    "cpu",
    pytest.param("cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")),
]


def table(rotary_dim: int) -> RopeTable:
    """Two factored tiers around a tabulated one, 2M positions in the first."""
    frequencies = inverse_frequencies(rotary_dim, 5e5)
    return RopeTable.joined(
        [
            RopeTable.of_frequencies(frequencies / 64, 2_097_152, attention_factor=1.3),
            RopeTable.of_rows(cos_sin_rows(frequencies, 1500)),
            RopeTable.of_frequencies(frequencies / 2, 5000),
        ]
    )


def asked(length: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Positions and offsets: random ones, the edges of blocks and of the table, and past it."""
    generator = torch.Generator().manual_seed(0)
    positions = torch.randint(0, length, (40,), generator=generator)
    edges = [0, BLOCK - 1, BLOCK, 2_097_151, 2_097_152, length - 1, length, length + 5, -1]
    positions = torch.cat([positions, torch.tensor(edges)])
    offsets = torch.randint(0, 100, positions.shape, generator=generator)
    return positions - offsets, offsets


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("rotary_dim", [64, 96, 128])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_rows_are_those_of_the_table_rounded_once(device: str, rotary_dim: int, dtype: torch.dtype) -> None:
    rope = table(rotary_dim)
    there = RopeTable(rows=rope.rows.to(device), turns=rope.turns.to(device), steps=rope.steps.to(device))
    positions, offsets = asked(rope.length)
    out = torch.zeros(len(positions), rotary_dim, dtype=dtype, device=device)
    read_rows(there, positions.to(device), offsets.to(device), out=out)
    expected = rope.read(positions + offsets)
    step = torch.finfo(dtype).eps  # of a rounding; the sums themselves may be fused
    torch.testing.assert_close(out.cpu().float(), expected, rtol=step / 2, atol=3e-7)


@pytest.mark.parametrize("device", DEVICES)
def test_tabulated_rows_come_back_to_the_last_bit(device: str) -> None:
    rows = cos_sin_rows(inverse_frequencies(64, 1e4), 3000)
    rope = RopeTable.of_rows(rows.to(device))
    for dtype in (torch.float32, torch.bfloat16):
        out = torch.zeros(3000, 64, dtype=dtype, device=device)
        read_rows(rope, torch.arange(3000, device=device), torch.zeros(3000, dtype=torch.int64, device=device), out=out)
        assert torch.equal(out.cpu(), rows.to(dtype))


def test_the_triton_kernel_passes_the_same_tests_in_its_interpreter() -> None:
    if os.environ.get("TRITON_INTERPRET"):
        pytest.skip("this is the run within")
    done = subprocess.run(
        [sys.executable, "-c", INTERPRETED],
        env=os.environ | {"TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert float(done.stdout.split()[-1]) < 3e-7
    assert done.stdout.split()[0] == "True"


INTERPRETED = """
import torch
from longrope_vllm.plugin.read_rows_triton import read_rows_fused
from longrope_vllm.rope import RopeTable, cos_sin_rows, inverse_frequencies

worst, equal = 0.0, True
for rotary_dim in (64, 96, 128):
    frequencies = inverse_frequencies(rotary_dim, 5e5)
    own = cos_sin_rows(frequencies, 1500)
    table = RopeTable.joined([
        RopeTable.of_frequencies(frequencies / 64, 2_097_152, attention_factor=1.3), RopeTable.of_rows(own)
    ])
    positions = torch.tensor([0, 1023, 1024, 2_097_151, 2_097_152, 2_098_651, table.length, table.length + 5, -1])
    offsets = torch.arange(len(positions))
    out = torch.zeros(len(positions), rotary_dim)
    read_rows_fused(table, positions - offsets, offsets, out=out)
    worst = max(worst, (out - table.read(positions)).abs().max().item())
    rounded = torch.zeros(2, rotary_dim, dtype=torch.float16)  # the interpreter truncates to bfloat16
    read_rows_fused(table, torch.tensor([2_097_152, 2_098_651]), torch.zeros(2, dtype=torch.int64), out=rounded)
    equal = equal and torch.equal(rounded, own[[0, 1499]].half())
print(equal, worst)
"""
