"""The servers that ``longrope verify MODEL`` starts, one after another: what to run, with which options."""

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib.metadata import entry_points

CHUNK = 997
"""Tokens a step of the server with other chunks, and ...
"""
CHUNKS_PER_TIER = 4
"""... at least so many of them in the shortest tier. Odd sizes, so that chunks end within blocks of the cache."""
OURS = ("--enforce-eager", "--enable-prefix-caching", "--enable-prompt-tokens-details")
"""Options that a user's own ones may take back (``--no-enforce-eager`` verifies a compiled model)."""
PLUGIN = "longrope"


@dataclass(frozen=True, kw_only=True)
class Start:
    """``python -m module options`` with additional environment variables."""

    module: str
    options: tuple[str, ...]
    environment: tuple[tuple[str, str], ...] = ()
    described: str


@dataclass(frozen=True, kw_only=True)
class Deployment:
    """A model as a user would serve it: ``longrope serve model`` with ``tiers`` (options that make them) and others."""

    model: str
    tiers: tuple[str, ...]
    options: tuple[str, ...]
    """Of ``longrope serve``, vLLM's among them."""
    stock_options: tuple[str, ...]
    """Those of them that vLLM's own server knows."""

    def as_served(self) -> Start:
        """The server under examination."""
        return self._longrope("the server")

    def other_chunks(self, shortest: int, concurrency: int) -> Start:
        """The same with prompts cut into chunks of another size; ``shortest`` is the length of the first tier."""
        chunk = min(CHUNK, shortest // CHUNKS_PER_TIER | 1)
        if str(chunk) in _values(self.options, "max-num-batched-tokens"):
            chunk += 2
        options = ("--max-num-batched-tokens", str(chunk), "--max-num-seqs", str(min(concurrency, chunk)))
        return self._longrope(f"a server that prefills {chunk} tokens a step", *options)

    def shortest_tier(self, shortest: int, *, unmodified: bool) -> Start:
        """A server of the first tier alone; where that is the model's own rope, stock vLLM with the model as it is."""
        length = ("--max-model-len", str(shortest))
        if not unmodified:
            return self._longrope(f"a server of {shortest:,} tokens, of one tier", *length)
        return Start(
            module="vllm.entrypoints.openai.api_server",
            options=("--model", self.model, *OURS, *self.stock_options, *length),
            environment=(
                ("VLLM_PLUGINS", ",".join(sorted(_other_plugins()))),
                # A YaRN checkpoint may declare the length it was stretched from; its table reaches this one.
                ("VLLM_ALLOW_LONG_MAX_MODEL_LEN", "1"),
            ),
            described=f"the unmodified model, in stock vLLM up to {shortest:,} tokens",
        )

    def _longrope(self, described: str, *last: str) -> Start:
        return Start(
            module="longrope_vllm.cli.main",
            options=("serve", self.model, *self.tiers, "--no-files", *OURS, *self.options, *last),
            described=described,
        )


def _values(options: Sequence[str], name: str) -> Iterator[str]:
    """Values of ``--name``, in the spellings that vLLM takes."""
    spelled = [option.replace("_", "-") for option in options]
    for index, option in enumerate(spelled):
        if option == f"--{name}" and index + 1 < len(spelled):
            yield spelled[index + 1]
        elif option.startswith(f"--{name}="):
            yield option.partition("=")[2]


def _other_plugins() -> set[str]:
    """Plugins of vLLM that stay on when ours is shut out."""
    allowed = os.environ.get("VLLM_PLUGINS")
    if allowed is not None:
        return set(allowed.split(",")) - {PLUGIN, ""}
    installed = {
        point.name for group in ("vllm.general_plugins", "vllm.platform_plugins") for point in entry_points(group=group)
    }
    return installed - {PLUGIN}
