"""What ``longrope verify MODEL`` starts: the command lines, and what a reader of the documentation may rely on."""

from itertools import pairwise

import pytest

from longrope_vllm.cli.verify import stock_options
from longrope_vllm.verification.servers import Deployment

VLLMS = ("--dtype", "float32")
DEPLOYED = Deployment(model="M", tiers=("--factors", "f.json"), options=("--lanes", "off", *VLLMS), stock_options=VLLMS)


def with_options(*options: str) -> Deployment:
    return Deployment(model="M", tiers=(), options=options, stock_options=options)


def value(options: tuple[str, ...], name: str) -> str:
    """The last one counts, as in vLLM's parser."""
    return [after for option, after in pairwise(options) if option == name][-1]


def test_the_server_is_what_a_user_would_serve() -> None:
    start = DEPLOYED.as_served()
    assert start.module == "longrope_vllm.cli.main"
    assert start.options[:4] == ("serve", "M", "--factors", "f.json")
    assert {"--enforce-eager", "--enable-prefix-caching", "--enable-prompt-tokens-details"} <= set(start.options)
    assert start.options[-4:] == ("--lanes", "off", "--dtype", "float32")


def test_an_option_of_the_user_comes_after_ours_and_so_wins() -> None:
    options = with_options("--no-enforce-eager").as_served().options
    assert options.index("--no-enforce-eager") > options.index("--enforce-eager")


@pytest.mark.parametrize(("shortest", "chunk"), [(256, 65), (2048, 513), (131072, 997)])
def test_other_chunks_cut_the_shortest_tier_too(shortest: int, chunk: int) -> None:
    options = DEPLOYED.other_chunks(shortest, 16).options
    assert value(options, "--max-num-batched-tokens") == str(chunk)
    assert value(options, "--max-num-seqs") == "16"


@pytest.mark.parametrize(
    "spelling",
    [("--max-num-batched-tokens", "997"), ("--max-num-batched-tokens=997",), ("--max_num_batched_tokens", "997")],
)
def test_other_chunks_are_never_those_of_the_user(spelling: tuple[str, ...]) -> None:
    options = with_options(*spelling).other_chunks(8192, 16).options
    assert options[-4:-2] == ("--max-num-batched-tokens", "999")


def test_the_own_rope_of_a_model_is_served_by_stock_vllm(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VLLM_PLUGINS", "longrope,of_a_platform")
    start = DEPLOYED.shortest_tier(256, unmodified=True)
    assert start.module == "vllm.entrypoints.openai.api_server"
    assert not {"--factors", "--lanes"} & set(start.options)
    assert value(start.options, "--dtype") == "float32"
    assert value(start.options, "--max-model-len") == "256"
    assert dict(start.environment) == {"VLLM_PLUGINS": "of_a_platform", "VLLM_ALLOW_LONG_MAX_MODEL_LEN": "1"}


def test_stock_vllm_is_told_nothing_that_it_does_not_know() -> None:
    options = (
        "--lanes",
        "off",
        "--dtype=float32",
        "--keys",
        "keys.json",
        "--no-files",
        "--short-wait=2",
        "--seed",
        "7",
    )
    assert stock_options(options) == ("--dtype=float32", "--seed", "7")


def test_another_shortest_tier_is_served_alone_by_the_plugin() -> None:
    start = DEPLOYED.shortest_tier(256, unmodified=False)
    assert start.options[:4] == ("serve", "M", "--factors", "f.json")
    assert value(start.options, "--max-model-len") == "256"
    assert start.environment == ()
