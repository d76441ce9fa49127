"""Losses and tokens since the last line of the metrics, by rope and over all processes."""

from collections.abc import Sequence
from dataclasses import dataclass
from time import monotonic

import torch
from torch import Tensor
from torch import distributed as dist


@dataclass(frozen=True, kw_only=True)
class Counted:
    """What was trained on between two lines."""

    losses: dict[str, float]
    """Mean loss in nats under each rope that was used."""
    loss: float
    """Mean over all tokens that count."""
    tokens: int
    seconds: float


class Tally:
    """Sums of this process; what is read of them holds those of all."""

    def __init__(self, ropes: Sequence[str], device: torch.device) -> None:
        self._ropes = list(ropes)
        self._device = device
        self._clear()

    def add(self, rope: str, loss: Tensor, counted: int, *, tokens: int) -> None:
        """One micro-batch: the sum of its losses, over ``counted`` of its tokens."""
        number = self._ropes.index(rope)
        self._losses[number] += loss.double()
        self._counted[number] += counted
        self._counted[-1] += tokens

    def loss(self, rope: str) -> float | None:
        """The mean under ``rope`` so far; None where no row had it."""
        return self._read()[0].get(rope)

    def finite(self) -> bool:
        """Whether all losses so far are numbers."""
        return bool(self._read()[1].isfinite().all())

    def take(self) -> Counted:
        """All of it; begins anew."""
        losses, table = self._read()
        found = Counted(
            losses=losses,
            loss=(table[0].sum() / table[1, :-1].sum()).item(),
            tokens=int(table[1, -1]),
            seconds=monotonic() - self._since,
        )
        self._clear()
        return found

    def _read(self) -> tuple[dict[str, float], Tensor]:
        table = torch.stack([self._losses, self._counted])  # [2, ropes + 1]; the last column counts tokens
        if dist.is_initialized():
            dist.all_reduce(table)
        means = (table[0] / table[1]).tolist()
        used = zip(self._ropes, means[:-1], table[1, :-1].tolist(), strict=True)
        return {rope: mean for rope, mean, counted in used if counted}, table

    def _clear(self) -> None:
        self._losses = torch.zeros(len(self._ropes) + 1, dtype=torch.float64, device=self._device)
        self._counted = torch.zeros_like(self._losses)
        self._since = monotonic()
