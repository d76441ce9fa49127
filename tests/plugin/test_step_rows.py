"""What a model gets for positions: places in the rows of its step, each row from the tier of its token."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from longrope_vllm.errors import UnsupportedError
from longrope_vllm.factors import Factors, Origin, Tier
from longrope_vllm.plugin.step_rows import StepRows, steps_of
from longrope_vllm.plugin.tiers import ServedTiers
from longrope_vllm.rope import RopeTable
from longrope_vllm.tier_table import tier_table

FACTORS = Factors(
    rotary_dim=4,
    base=10_000.0,
    trained_window=100,
    tiers=(
        Tier(max_length=100, factors=(1.0, 1.0)),
        Tier(max_length=1600, factors=(1.2, 16.0), attention_factor=1.2),
    ),
    origin=Origin(method="test"),
)
SERVED = ServedTiers.from_factors(FACTORS, 1600)
TIER_TABLES = [tier_table(SERVED.source, tier) for tier in SERVED.tiers]


class Rotary(nn.Module):
    """A rotary embedding as the plugin sees it: rows of a step, and tiers if it is ours."""

    def __init__(self, served: ServedTiers | None) -> None:
        super().__init__()
        self.register_buffer("cos_sin_cache", torch.zeros(8, 4))
        if served is not None:
            self.served, self.by_step = served, True
            self.table = RopeTable.joined(TIER_TABLES[::-1])
            self.register_buffer("offsets", torch.zeros(8, dtype=torch.int64))
            self.register_buffer("places", torch.arange(8))

    def take_rows(self, positions: Tensor, offsets: Tensor) -> None:
        self.cos_sin_cache[: len(positions)] = self.table.read(positions + offsets)

    def forward(self, positions: Tensor) -> Tensor:
        return self.cos_sin_cache[positions]


class Model(nn.Module):
    """Answers with the rows that its layers would rotate by."""

    def __init__(self, *served: ServedTiers | None) -> None:
        super().__init__()
        self.layers = nn.ModuleList([nn.Linear(1, 1), *(Rotary(one) for one in served)])

    def forward(self, *, positions: Tensor) -> Tensor:
        return self.layers[-1](positions)


@pytest.fixture
def model() -> Model:
    found = Model(SERVED, SERVED)
    StepRows.attach(found)
    return found


def test_every_token_gets_the_row_of_its_tier(model: Model) -> None:
    steps = steps_of(model, 1600)
    steps.offsets[:4] = torch.tensor([SERVED.row_offsets[index] for index in (0, 1, 0, 1)])
    found = model(positions=torch.tensor([5, 5, 99, 1599]))
    expected = [TIER_TABLES[index].read(torch.tensor(p)) for index, p in ((0, 5), (1, 5), (0, 99), (1, 1599))]
    assert torch.equal(found, torch.stack(expected))


def test_without_offsets_everybody_reads_the_longest_tier(model: Model) -> None:
    assert torch.equal(model(positions=torch.tensor([7, 1000])), TIER_TABLES[1].read(torch.tensor([7, 1000])))


def test_the_buffers_stay_where_they_are(model: Model) -> None:
    def addresses() -> set[int]:
        return {buffer.data_ptr() for buffer in model.buffers()}

    before = addresses()
    model(positions=torch.arange(3))
    model(positions=torch.arange(8))
    assert addresses() == before


def test_more_tokens_than_a_step_has_room_for_are_refused(model: Model) -> None:
    with pytest.raises(UnsupportedError, match="at most 8 tokens in a step, found 9"):
        model(positions=torch.arange(9))


def test_a_second_loader_attaches_nothing_more(model: Model) -> None:
    steps = steps_of(model, 1600)
    StepRows.attach(model)
    assert steps_of(model, 1600) is steps
    assert len(model._forward_pre_hooks) == 1


def test_the_whole_step_compiles_in_one_graph_for_all_tiers_and_lengths(model: Model) -> None:
    torch.compiler.reset()  # of what the process compiled before, which counts towards its limits
    compiled = torch.compile(model, fullgraph=True, dynamic=True, backend="eager")
    steps = steps_of(model, 1600)
    for count in (2, 3, 5):
        for index in (0, 1):
            steps.offsets[:count] = SERVED.row_offsets[index]
            expected = TIER_TABLES[index].read(torch.arange(count))
            with torch.compiler.set_stance("fail_on_recompile" if (count, index) != (2, 0) else "default"):
                assert torch.equal(compiled(positions=torch.arange(count)), expected)


def test_a_model_that_took_no_tiers_is_refused() -> None:
    with pytest.raises(UnsupportedError, match="Expected a longrope rotary embedding in Model, found none"):
        StepRows.attach(Model(None))


@pytest.mark.parametrize("order", [(SERVED, None), (None, SERVED)])
def test_a_model_with_a_second_rope_is_refused(order: tuple[ServedTiers | None, ...]) -> None:
    with pytest.raises(UnsupportedError, match="several ropes"):
        StepRows.attach(Model(*order))


def test_a_model_that_is_not_called_through_its_hooks_is_refused() -> None:
    class Whole(Model):
        """As ``@support_torch_compile`` leaves a class."""

        def __call__(self, *args: Any, **kwargs: Any) -> Any:
            return self.forward(*args, **kwargs)

    with pytest.raises(UnsupportedError, match="found Whole, which vLLM compiles as a whole"):
        StepRows.attach(Whole(SERVED))


def test_a_model_that_went_past_our_loaders_is_refused() -> None:
    with pytest.raises(UnsupportedError, match="Expected Model to be loaded by a model loader of vLLM"):
        steps_of(Model(SERVED), 1600)


def test_a_table_shorter_than_the_server_is_refused(model: Model) -> None:
    with pytest.raises(UnsupportedError, match="a rope table for 1601 tokens, found one for 1600"):
        steps_of(model, 1601)
