"""Ten thousand broken inputs each for the readers of files that come from others: read, or refused in one sentence.

The inputs are those of fixed seeds, the same in every run; one that fails is told by its seed. Documents are mutated as
trees, where meaning breaks, and as bytes, where form does. (What hypothesis finds by itself: ``test_factors_file.py``.)
"""

import copy
import json
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from random import Random
from typing import Any

import pytest

from longrope_vllm import Factors, Geometry, read_factors
from longrope_vllm.errors import LongRopeError
from longrope_vllm.factors_file import document_from_factors
from longrope_vllm.geometry import read_config
from longrope_vllm.plan.served_model import ServedModel
from longrope_vllm.rope_block import portable_fields, read_rope_block
from longrope_vllm.rope_lint import lint
from longrope_vllm.server.doors.keys_file import parse_keys

INPUTS = 10_000

LLAMA: dict[str, Any] = {
    "model_type": "llama",
    "architectures": ["LlamaForCausalLM"],
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "num_hidden_layers": 2,
    "vocab_size": 512,
    "max_position_embeddings": 4096,
    "rope_theta": 10000.0,
    "torch_dtype": "bfloat16",
    "tie_word_embeddings": False,
}
FACTORS = Factors.from_baseline("yarn", Geometry.from_config(LLAMA), 16_384)
"""Two tiers: the model's own and YaRN's."""

CONFIGS: list[dict[str, Any]] = [
    LLAMA,
    LLAMA | portable_fields(LLAMA, FACTORS),
    LLAMA | {"rope_parameters": {"rope_type": "yarn", "factor": 4.0, "rope_theta": 10000.0}},
    LLAMA
    | {
        "rope_scaling": {
            "rope_type": "llama3",
            "factor": 8.0,
            "low_freq_factor": 1.0,
            "high_freq_factor": 4.0,
            "original_max_position_embeddings": 1024,
        },
        "quantization_config": {"quant_method": "fp8", "weight_block_size": [128, 128]},
        "sliding_window": 1024,
        "layer_types": ["full_attention", "sliding_attention"],
    },
    {"model_type": "gemma3", "text_config": LLAMA | {"num_local_experts": 4, "num_experts_per_tok": 2}},
]

KEYS = """[keys.alice]
hashes = ["sha256:9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08"]
requests_per_minute = 60
tokens_per_minute = 2000000
longest_prompt = "128k"
concurrent_long = 2
admin = false
"""

JUNK: list[Any] = [None, True, False, 0, -1, 1, 3, 10**18, 10**400, 0.0, -0.5, 1e308, float("nan"), float("inf")]
JUNK += ["", "a", "128k", "longrope", "yarn", "\x00", "é" * 40, [], [1], [1.0, None], [[]]]
JUNK += [{}, {"rope_type": "longrope"}, {"a": {}}]
BYTES = b'\x00\xff{}[],:"\\-.eE019 \n=#\xc3'


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The path of every value within a document."""
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, child in inner:
        yield (*path, key)
        yield from places(child, (*path, key))


def mutated(document: Any, random: Random) -> Any:
    """``document`` with one to four values replaced, removed, moved to another place, or added."""
    document = copy.deepcopy(document)
    for _ in range(random.randint(1, 4)):
        known = list(places(document))
        if not known:
            break
        *way, last = random.choice(known)
        inner = document
        for step in way:
            inner = inner[step]
        change = random.choice(("replace", "replace", "remove", "move", "add"))
        if change == "remove":
            del inner[last]
        elif change == "add" and isinstance(inner, list):
            inner.insert(last, copy.deepcopy(random.choice([inner[last], *JUNK])))
        elif change == "add":
            inner[random.choice([*map(str, JUNK[:16]), "factor", "long_factor"])] = copy.deepcopy(random.choice(JUNK))
        elif change == "move":
            *other, name = random.choice(known)
            target = document
            for step in other:
                target = target[step] if isinstance(target, dict | list) else {}
            inner[last] = copy.deepcopy(target[name])
        else:
            inner[last] = copy.deepcopy(random.choice(JUNK))
    return document


def mutated_bytes(text: str, random: Random) -> bytes:
    """``text`` in UTF-8 with one to four bytes changed, cut out or put in, or cut short."""
    data = bytearray(text.encode())
    for _ in range(random.randint(1, 4)):
        at = random.randrange(len(data) + 1)
        data[at : at + random.choice((0, 1, 1, 7))] = bytes(random.choices(BYTES, k=random.choice((0, 1, 1, 5))))
    return bytes(data[: random.choice((len(data), len(data), random.randrange(len(data) + 1)))])


def refused_in_one_sentence(read: Callable[[], object]) -> None:
    """Read, or raise an error for the user that says what was expected, on one line."""
    try:
        read()
    except LongRopeError as error:
        message = str(error)
        assert message.startswith("Expected")
        assert "\n" not in message
        assert len(message) < 2_000


def for_each_input(check: Callable[[Random], None]) -> None:
    """``check`` with the source of chance of each input."""
    for seed in range(INPUTS):
        try:
            check(Random(seed))
        except Exception as error:
            error.add_note(f"input {seed}")
            raise


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("fuzzed")


def test_a_factors_file(folder: Path) -> None:
    document, path = document_from_factors(FACTORS), folder / "factors.json"
    text = json.dumps(document)

    def check(random: Random) -> None:
        as_tree = random.random() < 0.5
        path.write_bytes(json.dumps(mutated(document, random)).encode() if as_tree else mutated_bytes(text, random))
        refused_in_one_sentence(lambda: read_factors(path))

    for_each_input(check)


def test_a_checkpoints_config() -> None:
    def check(random: Random) -> None:
        config = mutated(random.choice(CONFIGS), random)
        for read in (Geometry.from_config, read_rope_block, lint, ServedModel.of):
            refused_in_one_sentence(partial(read, config))

    for_each_input(check)


def test_the_bytes_of_a_config(folder: Path) -> None:
    def check(random: Random) -> None:
        (folder / "config.json").write_bytes(mutated_bytes(json.dumps(random.choice(CONFIGS)), random))
        refused_in_one_sentence(lambda: Geometry.from_config(read_config(folder)))

    for_each_input(check)


def test_a_file_of_keys() -> None:
    for_each_input(
        lambda random: refused_in_one_sentence(partial(parse_keys, mutated_bytes(KEYS, random), source="keys.toml"))
    )
