"""What is kept for the way back, kept in the memory of the host.

With activation checkpointing that is the input of each layer: T times hidden size elements a layer (ALST,
arXiv 2506.13996).
"""

from contextlib import AbstractContextManager, nullcontext

import torch


def offloaded(device: torch.device) -> AbstractContextManager[object]:
    """Within the block tensors that autograd saves go to pinned host memory, and come back when they are needed.

    Changes nothing where ``device`` is not CUDA: there memory is the host's already, and cannot be pinned.
    """
    if device.type != "cuda":
        return nullcontext()
    return torch.autograd.graph.save_on_cpu(pin_memory=True)
