"""Rows of a ``RopeTable`` for the tokens of one step, by the kernel that fits the device.

On CUDA one fused Triton kernel. Elsewhere vLLM's compiled rotary kernel: adding two angles is turning the vector
``[cos | sin]`` of the one by the other. ``RopeTable.read`` is the oracle of both.
"""

from torch import Tensor

from longrope_vllm.rope import BLOCK, RopeTable


def read_rows(table: RopeTable, positions: Tensor, offsets: Tensor, *, out: Tensor) -> None:
    """``out`` [T, 2 P] = rows of ``table`` at ``positions`` + ``offsets`` ([T] int64), rounded to the dtype of ``out``.

    A position outside the table reads its nearest end.
    """
    if positions.is_cuda:
        from longrope_vllm.plugin.read_rows_triton import read_rows_fused

        read_rows_fused(table, positions, offsets, out=out)
    else:
        read_rows_compiled(table, positions, offsets, out=out)


def read_rows_compiled(table: RopeTable, positions: Tensor, offsets: Tensor, *, out: Tensor) -> None:
    """``read_rows`` on vLLM's own rotary kernel."""
    from vllm import _custom_ops as ops

    inside = (positions + offsets).clamp_(0, table.length - 1)
    block = inside >> _BITS
    rows = table.rows.index_select(0, table.steps.index_select(0, block).add_(inside & (BLOCK - 1)))
    ops.rotary_embedding(table.turns.index_select(0, block), rows, None, rows.shape[-1], table.rows, True)
    out.copy_(rows)


_BITS = BLOCK.bit_length() - 1
assert BLOCK == 1 << _BITS, "a power of two, so that blocks are shifts"
