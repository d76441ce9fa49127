"""An OpenAI-compatible server, asked for the losses of a document and for answers. Only token ids are sent.

Losses come from ``/v1/completions`` with ``echo`` and ``logprobs``, which vLLM, SGLang and llama.cpp's server have. No
request is sent twice: a repeated prefill of a long document would only make a slow server slower.
"""

import re
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

import torch
from torch import Tensor

from longrope_vllm.errors import ServerError
from longrope_vllm.evaluation import replies
from longrope_vllm.evaluation.subject import Answered, Scored
from longrope_vllm.extras import require
from longrope_vllm.server_errors import CONNECT_LIMIT, server_errors

if TYPE_CHECKING:
    from longrope_vllm.evaluation.harness.models import Bounded

_UNTOLD = 1 << 30
"""Tokens that a server is trusted to take when it does not tell its limit."""
_PATIENCE = 120.0
"""Seconds that any request may take."""
_SLOWEST = 50.0
"""Tokens a second of the slowest prefill that is waited for, one request after the other."""
_GREEDY = {"temperature": 0.0, "frequency_penalty": 0.0, "presence_penalty": 0.0}
"""Sent with every request: a server takes what is left out from the checkpoint's generation config."""
_GREEDY_PAST_OPENAI = {**_GREEDY, "repetition_penalty": 1.0}
"""The same for vLLM and SGLang; servers that keep to OpenAI's fields refuse this one."""

Told = TypeVar("Told", covariant=True)


class Read(Protocol[Told]):
    """A function of ``replies``: a document from JSON to what it tells."""

    def __call__(self, reply: Any, *, where: str) -> Told:
        """Raises ``ServerError``."""


@dataclass(frozen=True, kw_only=True)
class Echoed:
    """Log-probabilities of the tokens of a prompt from the second on."""

    logprobs: tuple[float, ...]
    best: tuple[float | None, ...]
    """Of the likeliest token at each place, None where the server does not tell."""
    tier: int | None


class Server:
    """A ``Subject`` behind a URL. It serves one set of factors, which it chose when it was started."""

    def __init__(
        self, url: str, *, label: str | None, model: str | None = None, api_key: str | None = None, concurrency: int = 1
    ) -> None:
        """Ask the server what it serves. Raises ``ServerError`` when it cannot be reached or serves something else."""
        self._openai = require("openai", "eval")
        self.url = url.rstrip("/").removesuffix("/v1")
        self.tokenizer: str | None = None
        """Folder of its tokenizer, once it is known."""
        self._label = label
        self._concurrency = concurrency
        self._client: Any = self._openai.OpenAI(
            base_url=f"{self.url}/v1", api_key=api_key or "none", max_retries=0, timeout=_PATIENCE
        )
        served = self._ask("/v1/models", replies.models)
        names = [entry.name for entry in served]
        if (model is None and len(names) != 1) or (model is not None and model not in names):
            raise ServerError(
                f"Expected {'one model' if model is None else f'the model {model!r}'} at {self.url}, found "
                f"{', '.join(names)}: name one with --model."
            )
        self._served = next(entry for entry in served if entry.name == (model or names[0]))
        self._tiers = self._ask_tiers()
        self._greedy = _GREEDY_PAST_OPENAI if self._takes_repetition_penalty() else _GREEDY

    @property
    def label(self) -> str:
        """As the user named it, or the model."""
        return self._label or self.model

    @property
    def identity(self) -> str:
        """What it serves, as far as it tells: the model, its checkpoint, its longest sequence and its tiers."""
        told = [f"{self.model} served"]
        if self._served.root is not None:
            told.append(f"root {self._served.root}")
        if self._served.limit is not None:
            told.append(f"up to {self._served.limit} tokens")
        tiers = ", ".join(f"{tier.max_length} {tier.identity}" for tier in self._tiers)
        return ", ".join([*told, f"tiers {tiers}" if tiers else "its own rope"])

    @property
    def model(self) -> str:
        """The name under which it serves."""
        return self._served.name

    @property
    def checkpoint(self) -> str | None:
        """The checkpoint it says it serves, a path there or a name on a hub."""
        return self._served.root

    @property
    def limit(self) -> int:
        """Most tokens of a prompt and its answer."""
        return self._served.limit or _UNTOLD

    def check(self, length: int) -> None:
        """Raise ``ServerError`` for a length past what the server says it takes."""
        if length > self.limit:
            raise ServerError(
                f"Expected lengths up to the {self.limit:,} tokens of {self.url}, found {length:,}: start it with a "
                "larger --max-model-len, or leave that length out."
            )

    def rope(self, length: int) -> Hashable:
        """The server chooses the rope by the length of a request, so each length is asked for by itself."""
        return self.url, self.label, length

    def score(self, tokens: Tensor, *, length: int) -> Scored:
        """Losses of ``tokens``, without the last one where they fill the server: vLLM keeps room for an answer.

        Raises ``ServerError``.
        """
        echoed = self.echo(tokens[: self.limit - 1].tolist())
        return Scored(losses=-torch.tensor(echoed.logprobs, dtype=torch.float32), tier=echoed.tier)

    def answer(self, prompt: Sequence[int], *, max_tokens: int, length: int) -> Answered:
        """A greedy answer, under the rope that the server chooses. Raises ``ServerError``."""
        return self.write(prompt, max_tokens=max_tokens)

    def echo(self, tokens: Sequence[int]) -> Echoed:
        """Log-probabilities of ``tokens``. Raises ``ServerError``."""
        found = self._complete(tokens, policy="prompt", max_tokens=0, echo=True, logprobs=1)
        stated = found.logprobs[1 : len(tokens)]
        told = tuple(value for value in stated if value is not None)
        if len(told) < len(tokens) - 1:
            raise ServerError(
                f"Expected log-probabilities of {len(tokens):,} prompt tokens from {self.url}, found "
                f"{len(told):,}: it does not support echo with logprobs, so leave out the tasks that need losses."
            )
        best = found.best[1 : len(tokens)]
        return Echoed(logprobs=told, best=best + (None,) * (len(told) - len(best)), tier=found.tier)

    def write(self, prompt: Sequence[int], *, max_tokens: int, until: Sequence[str] = ()) -> Answered:
        """A greedy answer that ends before the first of ``until``. Raises ``ServerError``."""
        stops: dict[str, Any] = {"stop": list(until)} if until else {}
        found = self._complete(prompt, policy="prompt+max_tokens", max_tokens=max_tokens, **stops)
        return Answered(text=found.text, tier=found.tier)

    def harness_model(self) -> "Bounded":
        """The server as lm-eval asks it."""
        from longrope_vllm.evaluation.harness.models import ServerModel

        assert self.tokenizer is not None, "the tokenizer is chosen before anything is asked"
        tokenizer = require("transformers", "eval").AutoTokenizer.from_pretrained(self.tokenizer)
        return ServerModel(self, tokenizer)

    def close(self) -> None:
        """End the connections."""
        self._client.close()

    def _complete(self, prompt: Sequence[int], *, policy: str, max_tokens: int, **fields: Any) -> replies.Completion:
        body = {"model": self.model, "prompt": list(prompt), "max_tokens": max_tokens, **self._greedy, **fields}
        if self._tiers:
            body["longrope_policy"] = policy
        limit = self._limit(len(prompt) + max_tokens)
        found = self._ask("/v1/completions", replies.completion, limit=limit, body=body)
        if found.read != len(prompt):
            raise ServerError(
                f"Expected {self.url} to read all {len(prompt):,} tokens of a prompt, found that it read {found.read}: "
                "it truncates or adds tokens, or does not tell, so its figures would be of another text."
            )
        return found

    def _limit(self, length: int) -> float:
        """Seconds that a request of ``length`` tokens may take, with the others in front of it."""
        return _PATIENCE + self._concurrency * length / _SLOWEST

    def _ask_tiers(self) -> tuple[replies.Tier, ...]:
        try:
            return self._ask("/v1/longrope", replies.tiers)
        except ServerError as error:
            if isinstance(error.__cause__, self._openai.APIStatusError):
                return ()  # a server without the plugin
            raise

    def _takes_repetition_penalty(self) -> bool:
        """Whether it is vLLM, which tells its version, or SGLang, which owns the models it lists."""
        if self._served.owner == "sglang":
            return True
        try:
            return re.match(r"\d+\.\d+", self._ask("/version", replies.version)) is not None
        except ServerError as error:
            if isinstance(error.__cause__, self._openai.APIConnectionError):
                raise
            return False

    def _ask(self, path: str, read: Read[Told], *, limit: float = _PATIENCE, body: Any = None) -> Told:
        """What ``read`` makes of the answer. A request with a ``body`` is a POST."""
        options = {"timeout": self._openai.Timeout(limit, connect=CONNECT_LIMIT)}
        where = self.url + path
        with server_errors(self._openai, url=self.url, path=path, limit=limit):
            if body is None:
                found = self._client.get(where, cast_to=object, options=options)
            else:
                found = self._client.post(where, cast_to=object, options=options, body=body)
        return read(found, where=where)
