"""A server over HTTP, through the openai SDK, with the routes and fields that vLLM and the plugin add."""

import time
from typing import Any, Self

from longrope_vllm.errors import ServerError
from longrope_vllm.extras import require
from longrope_vllm.server_errors import CONNECT_LIMIT, server_errors
from longrope_vllm.verification.answers import Answer, Question, Served, Step, TierInForce

TOP = 10
"""Log-probabilities asked for at each position; vLLM grants 20 unless told otherwise."""
ANSWER_LIMIT = 3600.0
"""Seconds; a prefill of a million tokens takes minutes, and a retry would only do it again."""


class Server:
    """A model behind a URL; an ``Asked``. Open it with ``async with``."""

    def __init__(self, url: str, *, model: str | None = None, api_key: str | None = None) -> None:
        openai = require("openai", "verify")
        self.url = url.rstrip("/").removesuffix("/v1")
        self.model = model or ""
        self._lengths: list[int] = []
        self._policy = "prompt"
        self._openai = openai
        self._client: Any = openai.AsyncOpenAI(
            base_url=f"{self.url}/v1",
            api_key=api_key or "none",
            max_retries=0,
            timeout=openai.Timeout(ANSWER_LIMIT, connect=CONNECT_LIMIT),
        )

    async def __aenter__(self) -> Self:
        await self._client.__aenter__()
        try:
            self.model = await self._choose_model()
        except BaseException:
            await self._client.close()
            raise
        return self

    async def __aexit__(self, *raised: Any) -> None:
        await self._client.__aexit__(*raised)

    async def _choose_model(self) -> str:
        names = [entry["id"] for entry in (await self._get("/v1/models"))["data"]]
        if self.model and self.model not in names:
            raise ServerError(f"Expected the model {self.model!r} at {self.url}, found {', '.join(names)}.")
        if not self.model and len(names) != 1:
            raise ServerError(f"Expected one model at {self.url}, found {', '.join(names)}: name one with --model.")
        return self.model or str(names[0])

    async def version(self) -> str:
        """The version of vLLM that serves."""
        return str((await self._get("/version"))["version"])

    async def tiers(self) -> tuple[TierInForce, ...]:
        """Tiers in force, shortest first; empty for a server that has none or no route that tells them."""
        try:
            told = await self._get("/v1/longrope")
        except ServerError as error:
            if isinstance(error.__cause__, self._openai.NotFoundError):
                return ()
            raise
        stated = told["tiers"]
        self._policy = told.get("policy", self._policy)
        self._lengths = [tier["max_length"] for tier in stated]
        return tuple(
            TierInForce(max_length=tier["max_length"], plain=tier["plain"], own=tier["own"], identity=tier["identity"])
            for tier in stated
        )

    async def tokenize(self, text: str, *, special: bool) -> tuple[int, ...]:
        """Token ids of ``text``, with the tokenizer's special tokens (a beginning of sequence) or without."""
        body = {"model": self.model, "prompt": text, "add_special_tokens": special}
        return tuple((await self._call("post", "/tokenize", body=body))["tokens"])

    async def ask(self, question: Question) -> Answer:
        """Answer one question greedily, whatever sampling the checkpoint recommends."""
        extra: dict[str, Any] = {
            "ignore_eos": True,
            "return_tokens_as_token_ids": True,
            "repetition_penalty": 1.0,
        }
        if question.salt is not None:
            extra["cache_salt"] = question.salt
        extra |= self._starting_tier(question)
        body = {
            "model": self.model,
            "prompt": list(question.prompt),
            "max_tokens": question.max_tokens,
            "temperature": 0.0,
            "frequency_penalty": 0.0,
            "presence_penalty": 0.0,
            "logprobs": TOP,
            **extra,
        }
        started = time.monotonic()
        found = await self._call("post", "/v1/completions", body=body)
        return _answer(found, started=started, url=self.url)

    async def served(self, answer: Answer) -> Served:
        """How the plugin says it served the request behind ``answer``."""
        found = (await self._get(f"/v1/requests/{answer.id}"))["longrope"]
        return Served(tier_max_length=found["tier_max_length"], tokens=found["tokens"], crossings=found["crossings"])

    def _starting_tier(self, question: Question) -> dict[str, Any]:
        """Fields by which a request starts in the tier of its prompt, whatever the policy of the server is."""
        if question.tier is not None:
            return {"longrope_tier": question.tier}
        if self._policy == "explicit":
            return {"longrope_tier": min(length for length in self._lengths if len(question.prompt) <= length)}
        return {} if self._policy == "prompt" else {"longrope_policy": "prompt"}

    async def _get(self, path: str) -> Any:
        return await self._call("get", path)

    async def _call(self, method: str, path: str, **arguments: Any) -> Any:
        with server_errors(self._openai, url=self.url, path=path, limit=ANSWER_LIMIT):
            return await getattr(self._client, method)(f"{self.url}{path}", cast_to=object, **arguments)


def _answer(found: Any, *, started: float, url: str) -> Answer:
    choice = found["choices"][0]
    logprobs = choice.get("logprobs")
    if not logprobs or not logprobs.get("top_logprobs"):
        raise ServerError(
            f"Expected log-probabilities in the answers of {url}, found none: start it with them allowed."
        )
    steps = tuple(
        Step(token=_id(token), top={_id(name): value for name, value in top.items()})
        for token, top in zip(logprobs["tokens"], logprobs["top_logprobs"], strict=True)
    )
    details = found["usage"].get("prompt_tokens_details")
    return Answer(
        id=found["id"],
        steps=steps,
        text=choice["text"],
        cached_tokens=None if details is None else details.get("cached_tokens"),
        started=started,
        finished=time.monotonic(),
    )


def _id(name: str) -> int:
    """``token_id:17`` is 17."""
    return int(name.removeprefix("token_id:"))
