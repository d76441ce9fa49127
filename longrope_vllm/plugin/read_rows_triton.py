"""The fused kernel of ``read_rows``: one program a token adds its angles and rounds once. One launch a step.

Works on CUDA, and on the CPU in Triton's interpreter (``TRITON_INTERPRET=1``).
"""

from typing import Any

import triton
import triton.language as tl
from torch import Tensor

from longrope_vllm.rope import BLOCK, RopeTable


@triton.jit  # type: ignore[untyped-decorator]
def _read_rows(
    positions: Any,  # [T] int64
    offsets: Any,  # [T] int64
    rows: Any,  # [R, 2 P] float32
    turns: Any,  # [blocks] int64
    steps: Any,  # [blocks] int64
    out: Any,  # [T, 2 P]
    last: Any,
    pairs: Any,
    BLOCK: tl.constexpr,
    PAIRS: tl.constexpr,  # the power of two from ``pairs`` on
) -> None:
    token = tl.program_id(0)
    position = tl.load(positions + token) + tl.load(offsets + token)
    position = tl.minimum(tl.maximum(position, 0), last)
    block = position // BLOCK
    turn = tl.load(turns + block) * 2 * pairs
    step = (tl.load(steps + block) + position % BLOCK) * 2 * pairs
    pair = tl.arange(0, PAIRS)
    some = pair < pairs
    turn_cos = tl.load(rows + turn + pair, mask=some)
    turn_sin = tl.load(rows + turn + pairs + pair, mask=some)
    step_cos = tl.load(rows + step + pair, mask=some)
    step_sin = tl.load(rows + step + pairs + pair, mask=some)
    row = out + token.to(tl.int64) * 2 * pairs + pair
    tl.store(row, turn_cos * step_cos - turn_sin * step_sin, mask=some)
    tl.store(row + pairs, turn_sin * step_cos + turn_cos * step_sin, mask=some)


def read_rows_fused(table: RopeTable, positions: Tensor, offsets: Tensor, *, out: Tensor) -> None:
    """``read_rows`` in one launch; ``out`` is contiguous."""
    tokens, width = out.shape
    pairs = width // 2
    _read_rows[(tokens,)](
        positions,
        offsets,
        table.rows,
        table.turns,
        table.steps,
        out,
        table.length - 1,
        pairs,
        BLOCK=BLOCK,
        PAIRS=triton.next_power_of_2(pairs),
        num_warps=1,
    )
