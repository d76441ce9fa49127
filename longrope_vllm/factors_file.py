"""``factors.json``: the file form of ``Factors``, versioned, readable by a person, published as a JSON Schema.

The schema (``factors.schema.json`` beside this file) states the form; ``Factors`` itself states the meaning.
"""

import json
import math
from dataclasses import asdict
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

from longrope_vllm.atomic import write_atomically
from longrope_vllm.errors import FactorsError
from longrope_vllm.factors import Factors, Origin, Tier

SCHEMA = "longrope-factors/1"
"""Version of the form. A reader refuses what it does not know."""


def read_factors(path: str | Path) -> Factors:
    """Read and check ``factors.json``. Raises ``FactorsError`` with one sentence about what is wrong and where."""
    path = Path(path)
    try:
        document = json.loads(
            path.read_text(encoding="utf-8"),
            parse_constant=_refuse_constant,
            parse_float=_finite_float,
            parse_int=_64_bit_integer,
        )
    except FileNotFoundError:
        raise FactorsError(f"Expected a factors file, found none at {path}: check the path.") from None
    except (OSError, ValueError, RecursionError) as error:
        raise FactorsError(f"Expected readable JSON in {path}, found: {error}.") from None
    try:
        return factors_from_document(document)
    except FactorsError as error:
        raise FactorsError(f"{error} (in {path})") from None


def write_factors(path: str | Path, factors: Factors) -> None:
    """Write ``factors.json`` atomically, one value a line.

    Raises ``FactorsError`` when the origin's measurements hold what JSON cannot, before anything is written.
    """
    try:
        text = json.dumps(document_from_factors(factors), indent=2, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise FactorsError(f"Expected measurements that JSON can hold in the origin, found: {error}.") from None
    write_atomically(Path(path), text + "\n")


def factors_from_document(document: Any) -> Factors:
    """``Factors`` from the parsed JSON. Raises ``FactorsError``."""
    version = document.get("schema") if isinstance(document, dict) else None
    if version != SCHEMA:
        raise FactorsError(
            f"Expected the schema {SCHEMA!r}, found {_short(repr(version))}: convert the file or update longrope-vllm."
        )
    _check_form(document)
    geometry = document["geometry"]
    return Factors(
        rotary_dim=int(geometry["rotary_dim"]),
        base=float(geometry["base"]),
        trained_window=int(geometry["trained_window"]),
        tiers=tuple(
            Tier(
                max_length=int(tier["max_length"]),
                factors=tuple(float(factor) for factor in tier["factors"]),
                attention_factor=float(tier.get("attention_factor", 1.0)),
                start_tokens=int(tier.get("start_tokens", 0)),
            )
            for tier in document["tiers"]
        ),
        origin=Origin(**document["origin"]),
        rope_type=geometry.get("rope_type", "default"),
        rope=geometry.get("rope", {}),
    )


def document_from_factors(factors: Factors) -> dict[str, Any]:
    """The JSON object of ``factors``, in the order a person reads it."""
    scaled = {} if factors.rope_type == "default" else {"rope_type": factors.rope_type, "rope": dict(factors.rope)}
    return {
        "schema": SCHEMA,
        "geometry": {
            "rotary_dim": factors.rotary_dim,
            "base": factors.base,
            "trained_window": factors.trained_window,
            **scaled,
        },
        "origin": {name: value for name, value in asdict(factors.origin).items() if value},
        "tiers": [
            {
                "max_length": tier.max_length,
                "attention_factor": tier.attention_factor,
                "start_tokens": tier.start_tokens,
                "factors": list(tier.factors),
            }
            for tier in factors.tiers
        ],
    }


@cache
def json_schema() -> dict[str, Any]:
    """The published JSON Schema of the current form."""
    text = files("longrope_vllm").joinpath("factors.schema.json").read_text(encoding="utf-8")
    schema: dict[str, Any] = json.loads(text)
    return schema


def _check_form(document: dict[str, Any]) -> None:
    from jsonschema import Draft202012Validator
    from jsonschema.exceptions import best_match

    error = best_match(Draft202012Validator(json_schema()).iter_errors(document))
    if error is not None:
        where = "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in error.absolute_path)
        raise FactorsError(
            f"Expected the form of {SCHEMA}, found at {where.lstrip('.') or 'the top'}: {_short(error.message)}."
        )


def _short(message: str) -> str:
    return message if len(message) <= 200 else f"{message[:120]} … {message[-60:]}"


def _finite_float(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"{text} does not fit into a float64")
    return value


def _64_bit_integer(text: str) -> int:
    if len(text) > 18:
        raise ValueError(f"{text[:18]}… does not fit into 64 bits")
    return int(text)


def _refuse_constant(name: str) -> float:
    raise ValueError(f"{name} is not a number that JSON allows")
