"""What a server answers, read once into small values; any other shape is one ``ServerError``.

In: documents from JSON. Out: models, tiers and completions whose fields have the type that they are said to have.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NoReturn

from longrope_vllm.errors import ServerError

_ROUNDING = 1e-3
"""Most that a log-probability may lie above 0: some servers sum probabilities in bfloat16."""


@dataclass(frozen=True, kw_only=True)
class Model:
    """One entry of ``/v1/models``."""

    name: str
    root: str | None
    """The checkpoint, a path there or a name on a hub."""
    limit: int | None
    """``max_model_len``."""
    owner: str | None
    """The engine, where it names itself."""


@dataclass(frozen=True, kw_only=True)
class Tier:
    """One tier of ``/v1/longrope``."""

    max_length: int
    identity: str


@dataclass(frozen=True, kw_only=True)
class Completion:
    """The first choice of ``/v1/completions``."""

    text: str
    read: int | None
    """Tokens of the prompt that the server says it read."""
    tier: int | None
    """Longest sequence of the tier that served it, where the plugin says so."""
    logprobs: tuple[float | None, ...]
    """Of each token, prompt first; nothing where there are none."""
    best: tuple[float | None, ...]
    """Of the likeliest token at each place."""


def models(reply: Any, *, where: str) -> tuple[Model, ...]:
    """The models of ``/v1/models``; at least one."""
    return tuple(
        Model(
            name=_field(entry, "id", str, where),
            root=_optional(entry, "root", str, where),
            limit=_optional(entry, "max_model_len", int, where),
            owner=_optional(entry, "owned_by", str, where),
        )
        for entry in _list(reply, "data", where)
    )


def tiers(reply: Any, *, where: str) -> tuple[Tier, ...]:
    """The tiers of ``/v1/longrope``; none for a model without a longrope block."""
    return tuple(
        Tier(max_length=_field(entry, "max_length", int, where), identity=_field(entry, "identity", str, where))
        for entry in _field(reply, "tiers", list, where)
    )


def version(reply: Any, *, where: str) -> str:
    """What ``/version`` of vLLM tells."""
    found: str = _field(reply, "version", str, where)
    return found


def completion(reply: Any, *, where: str) -> Completion:
    """A completion. Raises ``ServerError``, also for log-probabilities that are none."""
    choice = _list(reply, "choices", where)[0]
    usage = _optional(reply, "usage", dict, where)
    said = _optional(reply, "longrope", dict, where)
    stated = _optional(choice, "logprobs", dict, where) or {}
    listed = _optional(stated, "token_logprobs", list, where) or []
    tops = _optional(stated, "top_logprobs", list, where) or []
    return Completion(
        text=_field(choice, "text", str, where),
        read=_optional(usage, "prompt_tokens", int, where) if usage else None,
        tier=_field(said, "tier_max_length", int, where) if said is not None else None,
        logprobs=tuple(_logprob(value, where) for value in listed),
        best=tuple(_best(top, where) for top in tops),
    )


def _best(top: Any, where: str) -> float | None:
    """The likeliest of ``top``, a token to its log-probability."""
    if not top:
        return None
    if not isinstance(top, Mapping):
        _refuse("a log-probability for each token under top_logprobs", top, where)
    found = [_logprob(value, where) for value in top.values()]
    return max((value for value in found if value is not None), default=None)


def _logprob(value: Any, where: str) -> float | None:
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float):
        _refuse("numbers as log-probabilities", value, where)
    if not math.isfinite(value) or value > _ROUNDING:
        raise ServerError(
            f"Expected finite log-probabilities of at most 0 from {where}, found {value}: its figures cannot be "
            "believed, so try another dtype or version of the server."
        )
    return float(value)


def _list(document: Any, name: str, where: str) -> Sequence[Any]:
    found = _field(document, name, list, where)
    if not found:
        _refuse(f"at least one entry under {name}", found, where)
    return list(found)


def _optional(document: Any, name: str, kind: type, where: str) -> Any:
    if isinstance(document, Mapping) and document.get(name) is None:
        return None
    return _field(document, name, kind, where)


def _field(document: Any, name: str, kind: type, where: str) -> Any:
    """``document[name]``, which has to be a ``kind``."""
    found = document.get(name) if isinstance(document, Mapping) else document
    if not isinstance(document, Mapping) or isinstance(found, bool) or not isinstance(found, kind):
        _refuse(f"{_KINDS[kind]} under {name}", found, where)
    return found


_KINDS = {str: "a text", int: "a whole number", list: "a list", dict: "an object"}


def _refuse(expected: str, found: Any, where: str) -> NoReturn:
    said = repr(found)
    raise ServerError(
        f"Expected {expected} in the answer of {where}, found {said[:80]}{'...' if len(said) > 80 else ''}: it is not "
        "an OpenAI-compatible server, so check the URL."
    )
