"""How large the largest tensor is that an operation of torch returns."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class LargestTensor(TorchDispatchMode):
    """Within the block ``elements`` grows to the elements of the largest tensor that is made."""

    elements = 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        answer = func(*args, **(kwargs or {}))
        given = {leaf.untyped_storage()._cdata for leaf in _tensors(args, kwargs)}
        for leaf in _tensors(answer):
            storage = leaf.untyped_storage()
            if storage._cdata not in given:  # a view takes nothing
                self.elements = max(self.elements, storage.nbytes() // leaf.element_size())
        return answer


def _tensors(*trees: Any) -> list[torch.Tensor]:
    return [leaf for leaf in tree_leaves(trees) if isinstance(leaf, torch.Tensor)]
