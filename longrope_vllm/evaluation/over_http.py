"""An OpenAI-compatible server, asked for the losses of a document and for answers. Only token ids are sent.

Losses come from ``/v1/completions`` with ``echo`` and ``logprobs``, which vLLM, SGLang and llama.cpp's server have. No
request is sent twice: a repeated prefill of a long document would only make a slow server slower.
"""

from collections.abc import Hashable, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from longrope_vllm.errors import ServerError
from longrope_vllm.evaluation.subject import Answered, Scored
from longrope_vllm.extras import require

if TYPE_CHECKING:
    from longrope_vllm.evaluation.harness.models import Bounded

CONNECT_LIMIT = 10.0
_UNTOLD = 1 << 30
"""Tokens that a server is trusted to take when it does not tell its limit."""
_PATIENCE = 120.0
"""Seconds that any request may take."""
_SLOWEST = 50.0
"""Tokens a second of the slowest prefill that is waited for, one request after the other."""


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
        served = self._call("get", "/models", limit=_PATIENCE)["data"]
        names = [entry["id"] for entry in served]
        if (model is None and len(names) != 1) or (model is not None and model not in names):
            raise ServerError(
                f"Expected {'one model' if model is None else f'the model {model!r}'} at {self.url}, found "
                f"{', '.join(names)}: name one with --model."
            )
        self._entry = next(entry for entry in served if entry["id"] == (model or names[0]))
        self._tiers = self._ask_tiers()

    @property
    def label(self) -> str:
        """As the user named it, or the model."""
        return self._label or self.model

    @property
    def identity(self) -> str:
        """What it serves: the model, and its tiers where it tells them."""
        tiers = ", ".join(f"{tier['max_length']} {tier['identity']}" for tier in self._tiers)
        return f"{self.model} served, " + (f"tiers {tiers}" if tiers else "its own rope")

    @property
    def model(self) -> str:
        """The name under which it serves."""
        return str(self._entry["id"])

    @property
    def checkpoint(self) -> str | None:
        """The checkpoint it says it serves, a path there or a name on a hub."""
        found = self._entry.get("root")
        return None if found is None else str(found)

    def check(self, length: int) -> None:
        """Raise ``ServerError`` for a length past what the server says it takes."""
        limit = self._entry.get("max_model_len")
        if limit is not None and length > limit:
            raise ServerError(
                f"Expected lengths up to the {limit:,} tokens of {self.url}, found {length:,}: start it with a larger "
                "--max-model-len, or leave that length out."
            )

    def rope(self, length: int) -> Hashable:
        """The server chooses the rope by the length of a request, so each length is asked for by itself."""
        return self.url, self.label, length

    def score(self, tokens: Tensor, *, length: int) -> Scored:
        """Losses of ``tokens``, without the last one where they fill the server: vLLM keeps room for an answer.

        Raises ``ServerError``.
        """
        limit = self._entry.get("max_model_len") or _UNTOLD
        ids = tokens[: limit - 1].tolist()
        found = self._complete(ids, policy="prompt", max_tokens=0, echo=True, logprobs=1)
        stated = (found["choices"][0].get("logprobs") or {}).get("token_logprobs") or []
        if len(stated) < len(ids) or any(value is None for value in stated[1 : len(ids)]):
            raise ServerError(
                f"Expected log-probabilities of {len(ids):,} prompt tokens from {self.url}, found "
                f"{sum(value is not None for value in stated):,}: it does not support echo with logprobs, so leave out "
                "the tasks that need losses."
            )
        return Scored(losses=-torch.tensor(stated[1 : len(ids)], dtype=torch.float32), tier=_tier(found))

    def answer(self, prompt: Sequence[int], *, max_tokens: int, length: int) -> Answered:
        """A greedy answer, under the rope that the server chooses. Raises ``ServerError``."""
        found = self._complete(list(prompt), policy="prompt+max_tokens", max_tokens=max_tokens)
        return Answered(text=str(found["choices"][0]["text"]), tier=_tier(found))

    def harness_model(self) -> "Bounded":
        """The server as lm-eval asks it."""
        from longrope_vllm.evaluation.harness.models import ServerModel

        assert self.tokenizer is not None, "the tokenizer is chosen before anything is asked"
        return ServerModel(
            self.url,
            self.model,
            tokenizer=self.tokenizer,
            limit=self._entry.get("max_model_len") or _UNTOLD,
            api_key=self._client.api_key,
            seconds=_PATIENCE,
            seconds_per_token=1 / _SLOWEST,
        )

    def close(self) -> None:
        """End the connections."""
        self._client.close()

    def _complete(self, prompt: list[int], *, policy: str, max_tokens: int, **fields: Any) -> Any:
        body = {"model": self.model, "prompt": prompt, "max_tokens": max_tokens, "temperature": 0.0, **fields}
        if self._tiers:
            body["longrope_policy"] = policy
        length = len(prompt) + max_tokens
        found = self._call("post", "/completions", body=body, limit=self._limit(length))
        read = (found.get("usage") or {}).get("prompt_tokens")
        if read != len(prompt):
            raise ServerError(
                f"Expected {self.url} to read all {len(prompt):,} tokens of a prompt, found that it read {read}: it "
                "truncates or adds tokens, so its figures would be of another text."
            )
        return found

    def _limit(self, length: int) -> float:
        """Seconds that a request of ``length`` tokens may take, with the others in front of it."""
        return _PATIENCE + self._concurrency * length / _SLOWEST

    def _ask_tiers(self) -> list[Any]:
        try:
            return list(self._call("get", "/longrope", limit=_PATIENCE)["tiers"])
        except ServerError as error:
            if isinstance(error.__cause__, self._openai.APIStatusError):
                return []  # a server without the plugin
            raise

    def _call(self, method: str, path: str, *, limit: float, **arguments: Any) -> Any:
        options = {"timeout": self._openai.Timeout(limit, connect=CONNECT_LIMIT)}
        try:
            found = getattr(self._client, method)(path, cast_to=object, options=options, **arguments)
        except self._openai.APIStatusError as error:
            body = error.body
            said = (body.get("message") if isinstance(body, dict) else None) or error.message
            raise ServerError(
                f"Expected an answer from /v1{path} of {self.url}, found HTTP {error.status_code}: {said}"
            ) from error
        except self._openai.APITimeoutError as error:
            raise ServerError(
                f"Expected an answer from {self.url} within {limit:.0f} s, found none: lower --concurrency."
            ) from error
        except self._openai.APIConnectionError as error:
            cause = error.__cause__ or error
            raise ServerError(
                f"Expected a server at {self.url}, found none that answers ({type(cause).__name__} {cause}): is it "
                "running?"
            ) from error
        if not isinstance(found, dict):
            raise ServerError(f"Expected an OpenAI-compatible server at {self.url}, found another: check the URL.")
        return found


def _tier(found: Any) -> int | None:
    """The tier that the plugin says served a request."""
    said = found.get("longrope")
    return None if not said else int(said["tier_max_length"])
