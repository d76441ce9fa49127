"""How many tokens a second training could read, from the arithmetic alone.

In: sizes of the model, the layout of a run, and a GPU's peak. Out: tokens a second. Counted are matrix products as they
are done (arXiv 2307.08691, section 4.1, for attention), a multiplication and an addition as two:

- weights: 2 P a token forward, as much again with checkpointing, and 4 P backward, of which frozen weights need 2 P;
- attention: 2 T q for each layer and token forward (two products, half of them masked), as much again with
  checkpointing, and 2.5 times as much backward, for T tokens of a row and q elements of all heads.

``UTILISATION`` is an assumption: the share of the peak that such runs reach. Loading, the optimizer and what is sent
between GPUs or to the host are taken to be within it.
"""

from longrope_training.memory_plan import Layout
from longrope_training.model_shape import ModelShape

UTILISATION = 0.4


def flops_per_token(shape: ModelShape, layout: Layout) -> float:
    """Operations for one token of a row, forward and backward."""
    again = 1 if layout.checkpointing else 0
    through_weights = 2 * (1 + again) + (4 if layout.tuning == "full" else 2)
    looked_up = 0 if shape.tied else shape.embedding  # an embedding is no product, unless it is the head as well
    attention = 2 * layout.length * shape.heads * shape.head * shape.layers
    return through_weights * (shape.parameters - looked_up) + attention * (1 + again + 2.5)


def tokens_per_second(shape: ModelShape, layout: Layout, flops: float) -> float:
    """Of all processes together, each with ``flops`` at its peak."""
    return UTILISATION * flops * layout.processes / flops_per_token(shape, layout)
