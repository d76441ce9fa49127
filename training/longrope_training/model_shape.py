"""What of a checkpoint decides how much memory and arithmetic its training takes."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from longrope_vllm.errors import CheckpointError
from longrope_vllm.geometry import Config, positive_int, read_config, text_config, whole_number
from longrope_vllm.memory import attention_width, mlp_width
from longrope_vllm.weights import count_elements, weight_files

_EXPERTS = ("num_experts", "num_local_experts", "n_routed_experts")


@dataclass(frozen=True, kw_only=True)
class ModelShape:
    """Sizes of one language model, in elements."""

    parameters: int
    layers: int
    hidden: int
    vocabulary: int
    heads: int
    kv_heads: int
    head: int
    """Elements of an attention head."""
    inner: int
    """Elements a token inside an MLP."""
    attention: int
    """Elements a token of one attention: queries and keys twice (turned), values, and what comes out."""
    tied: bool
    """Whether the language model's head is the embedding."""

    @classmethod
    def of(cls, checkpoint: Path) -> Self:
        """From ``config.json`` and the headers of the weights, or from the former alone where there are none yet.

        Raises ``CheckpointError``, also for a mixture of experts without weights, which its config does not count.
        """
        config = text_config(read_config(checkpoint))
        hidden, heads = positive_int(config, "hidden_size"), positive_int(config, "num_attention_heads")
        sizes: dict[str, Any] = {
            "layers": positive_int(config, "num_hidden_layers"),
            "hidden": hidden,
            "vocabulary": positive_int(config, "vocab_size"),
            "heads": heads,
            "kv_heads": whole_number(config, "num_key_value_heads", default=heads),
            "head": whole_number(config, "head_dim", default=hidden // heads),
            "inner": mlp_width(config),
            "attention": attention_width(config),
            "tied": bool(config.get("tie_word_embeddings", False)),
        }
        counted = count_elements(weight_files(checkpoint), tied=sizes["tied"])
        return cls(parameters=counted or _counted(config, sizes, checkpoint), **sizes)

    @property
    def embedding(self) -> int:
        """Parameters of the embedding."""
        return self.vocabulary * self.hidden

    @property
    def layer(self) -> int:
        """Parameters of one layer."""
        return (self.parameters - self.embedding * (1 if self.tied else 2)) // self.layers

    @property
    def norms(self) -> int:
        """Parameters of the norms: two a layer, and one at the end."""
        return self.hidden * (2 * self.layers + 1)

    def adapters(self, rank: int) -> int:
        """Parameters of low-rank adapters at the seven matrices of each layer."""
        queries, keys = self.heads * self.head, self.kv_heads * self.head
        attention = 2 * (self.hidden + queries) + 2 * (self.hidden + keys)
        return rank * self.layers * (attention + 3 * (self.hidden + self.inner))


def _counted(config: Config, sizes: dict[str, Any], checkpoint: Path) -> int:
    """Parameters of a Llama of these sizes, which the other families read here differ from by biases at most."""
    if any(config.get(name) for name in _EXPERTS):
        raise CheckpointError(
            f"Expected weights in {checkpoint}, found none: those of a mixture of experts cannot be counted from its "
            "config.json."
        )
    hidden, head = sizes["hidden"], sizes["head"]
    attention = 2 * hidden * head * (sizes["heads"] + sizes["kv_heads"])
    layer = attention + 3 * hidden * sizes["inner"] + 2 * hidden
    embeddings = sizes["vocabulary"] * hidden * (1 if sizes["tied"] else 2)
    return int(embeddings + sizes["layers"] * layer + hidden)
