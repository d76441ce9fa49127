"""Which layers of a model see a window of tokens only.

Newer configurations list each layer's kind; in those that do not, every family has a rule of its own, as the classes of
transformers' configurations state it.
"""

from longrope_vllm.errors import PlanError
from longrope_vllm.geometry import Config, list_of, whole_number

_EVERY = ("mistral", "mixtral", "phi3", "phimoe", "starcoder2")
"""Types of models all of whose layers have the window."""

_FROM_A_LAYER = ("qwen2", "qwen3")
"""Types whose layers from ``max_window_layers`` on have it, if ``use_sliding_window`` says so."""

_PATTERNS = {"gemma2": 2, "gemma3": 6, "gemma3_text": 6, "cohere2": 4}
"""Types of which one layer in so many sees everything, unless ``sliding_window_pattern`` says otherwise."""


def sliding_layers(config: Config, layers: int) -> tuple[int, int]:
    """The window in tokens and how many of the ``layers`` have it, 0 and 0 without any.

    Raises ``PlanError`` where ``config`` (that of the text) has a window and nothing says which layers it is for.
    """
    window = whole_number(config, "sliding_window", default=0)
    if not window or config.get("use_sliding_window") is False:
        return 0, 0
    kinds = list_of(config, "layer_types", str)
    sliding = kinds.count("sliding_attention") if kinds else _unlisted(config, layers)
    return (window, sliding) if sliding else (0, 0)


def _unlisted(config: Config, layers: int) -> int:
    kind = config.get("model_type")
    if kind in _EVERY:
        return layers
    if kind in _FROM_A_LAYER:
        first = whole_number(config, "max_window_layers", default=28)
        return max(0, layers - first) if config.get("use_sliding_window") else 0
    pattern = whole_number(config, "sliding_window_pattern", default=_PATTERNS.get(str(kind), 0))
    if not pattern:
        raise PlanError(
            f"Expected layer_types beside sliding_window in config.json of a model of type {kind}, found none: nothing "
            "says which layers have the window, so list them, or set sliding_window to null where none has."
        )
    return layers - layers // pattern
