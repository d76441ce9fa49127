"""Oracles: the address of what is saved, the memory in use, a derivative in closed form."""

import pytest
import torch

from longrope_vllm.backward.offload import offloaded


def test_on_the_cpu_nothing_is_moved() -> None:
    states = torch.randn(10, requires_grad=True)
    with offloaded(torch.device("cpu")):
        answer = states.exp()  # saves its answer
    assert answer.grad_fn is not None
    assert answer.grad_fn._saved_result.data_ptr() == answer.data_ptr()


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_on_cuda_gradients_stay_and_device_memory_does_not_hold_what_is_saved() -> None:
    device = torch.device("cuda")
    states = torch.randn(1 << 20, device=device, requires_grad=True)
    before = torch.cuda.memory_allocated()
    with offloaded(device):
        answer = states.sin()  # saves its input, which is there anyway
        answer = answer.exp()  # saves its answer
    del answer
    assert torch.cuda.memory_allocated() == before
    with offloaded(device):
        loss = states.exp().sum()
    loss.backward()
    assert states.grad is not None
    torch.testing.assert_close(states.grad, states.detach().exp())
