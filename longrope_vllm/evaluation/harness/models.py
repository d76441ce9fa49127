"""The two models that lm-eval is given: a live transformers model under a rope for each request, and a server.

Both read the same tokens: a text is encoded with the special tokens of its tokenizer, once, and sent as token ids.
Neither pads, cuts or asks again: a request that is too long is refused before anything runs. Lengths are tokens of the
prompt and the room for its answer.
"""

from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager
from itertools import groupby
from typing import Any, NoReturn

import torch
from torch import nn

from longrope_vllm.errors import EvaluationError, ServerError
from longrope_vllm.extras import require

_base: Any = require("lm_eval.api.model", "eval")
_completions: Any = require("lm_eval.models.openai_completions", "eval")
_shaping: Any = require("lm_eval.models.utils", "eval")

RopeFor = Callable[[int], AbstractContextManager[Any]]
"""The rope of a request of so many tokens: the model rotates with it within the block."""

_Pair = tuple[list[int], list[int]]
"""Token ids of a context and of what continues it."""


class Bounded:
    """What both models share: how a text becomes tokens, how long a request is, and that none is cut."""

    tokenizer: Any
    limit: int
    """Most tokens of a request, its answer included."""
    scored_room = 0
    """Tokens that scoring a text generates besides."""
    _encode_pair: Callable[[str, str], _Pair]

    @property
    def prefix_token_id(self) -> int | None:
        """The token that begins a text without context."""
        begin = self.tokenizer.bos_token_id
        found = self.tokenizer.eos_token_id if begin is None else begin
        return None if found is None else int(found)

    def tok_encode(self, string: str | Iterable[str], add_special_tokens: bool | None = None, **_: Any) -> Any:
        """Token ids of a text, or of each of several; ``add_special_tokens`` only ever leaves them out.

        A text that starts with the beginning-of-sequence token, as a chat template writes it, gets no second one.
        The default of False of lm-eval's API models is not followed: a server adds them to a text by itself.
        """
        if not isinstance(string, str):
            return [self._encoded(text) for text in string]
        return self._encoded(string) if add_special_tokens is not False else self._encoded(string, special=False)

    def _encoded(self, text: str, *, special: bool = True) -> list[int]:
        begin = self.tokenizer.bos_token
        repeated = begin is not None and text.startswith(begin)
        return list(self.tokenizer(text, add_special_tokens=special and not repeated).input_ids)

    def length(self, request: Any) -> int:
        """Tokens of ``request``, an lm-eval ``Instance`` whose ``max_gen_toks`` is stated."""
        if request.request_type == "generate_until":
            prompt, settings = request.args
            return len(self.tok_encode(prompt)) + int(settings["max_gen_toks"])
        return sum(map(len, self._pair(*request.args))) + self.scored_room

    def _pair(self, context: str, continuation: str) -> _Pair:
        """As ``TemplateLM.loglikelihood`` does it: an empty context is the token that begins a sequence."""
        if context:
            return self._encode_pair(context, continuation)
        tokens = self._encoded(continuation, special=False)
        if self.prefix_token_id is None:
            raise EvaluationError(
                "Expected a tokenizer with a bos_token or an eos_token to begin a text without context, found neither."
            )
        return ([self.prefix_token_id], tokens) if tokens[0] != self.prefix_token_id else (tokens[:1], tokens[1:])

    def check(self, requests: Sequence[Any]) -> int:
        """Tokens of all ``requests`` together. Raises ``EvaluationError`` for one that is longer than the limit."""
        total = 0
        for request in requests:
            tokens = self.length(request)
            if tokens > self.limit:
                raise EvaluationError(
                    f"Expected at most {self.limit} tokens in a request (prompt and room for its answer), found "
                    f"{tokens} in sample {request.doc_id} of {request.task_name}: its beginning would be cut off; "
                    "raise the limit of the model, ask for a shorter length, or leave this sample out."
                )
            total += tokens
        return total

    def loglikelihood_rolling(self, requests: Sequence[Any], disable_tqdm: bool = False) -> NoReturn:
        """Not measured here: lm-eval cuts a document into windows of its own, which hides its length."""
        raise EvaluationError(
            f"Expected a benchmark with questions, found the perplexity of documents in {requests[0].task_name}: use "
            "the task ppl."
        )


class LiveModel(Bounded, _base.TemplateLM):  # type: ignore[misc]
    """A transformers causal language model in this process, one request after the other."""

    def __init__(self, model: nn.Module, tokenizer: Any, *, limit: int, rope_for: RopeFor) -> None:
        """``rope_for`` is asked with the tokens of each request; a model with its own rope takes ``nullcontext``."""
        super().__init__()
        self.tokenizer = tokenizer
        self.limit = limit
        self.max_length = limit
        live: Any = model
        self._model = live
        self._rope_for = rope_for
        stated = live.generation_config.eos_token_id
        self._ends = {tokenizer.eos_token_id, *(stated if isinstance(stated, list) else [stated])}

    @property
    def eot_token_id(self) -> int | None:
        """The token that ends a text."""
        return None if self.tokenizer.eos_token_id is None else int(self.tokenizer.eos_token_id)

    def _loglikelihood_tokens(
        self, requests: Sequence[tuple[Any, list[int], list[int]]], **_: Any
    ) -> list[tuple[float, bool]]:
        pairs = [(context, continuation) for _, context, continuation in requests]
        return [
            scored
            for read, group in groupby(pairs, key=lambda pair: pair[0] + pair[1][:-1])
            for scored in self._scores(read, [continuation for _, continuation in group])
        ]

    @torch.inference_mode()
    def _scores(self, read: list[int], continuations: Sequence[list[int]]) -> list[tuple[float, bool]]:
        """Log-probability of each continuation and whether it is the greedy one; they differ in the last token only."""
        longest = max(map(len, continuations))
        tokens = torch.tensor([read], device=self._model.device)  # [1, T]
        with self._rope_for(len(read) + 1):
            logits = self._model(tokens, use_cache=False, logits_to_keep=longest).logits[0]  # [longest, V]
        scored = logits.float().log_softmax(-1).cpu()  # float32: sums over many tokens
        found = []
        for continuation in continuations:
            wanted = torch.tensor(continuation)
            rows = scored[longest - len(wanted) :]  # [len(wanted), V]
            total = rows.gather(1, wanted[:, None]).sum().item()
            found.append((total, bool((rows.argmax(-1) == wanted).all())))
        return found

    def generate_until(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[str]:
        """The greedy answer to each request, up to the first of its ``until``."""
        return [
            self._answer(self.tok_encode(prompt), room=settings["max_gen_toks"], until=settings["until"])
            for prompt, settings in (request.args for request in requests)
        ]

    @torch.inference_mode()
    def _answer(self, prompt: list[int], *, room: int, until: Sequence[str]) -> str:
        # Not ``generate``: it would take penalties and processors from the checkpoint's generation config.
        made: list[int] = []
        text, cache, unread = "", None, prompt
        with self._rope_for(len(prompt) + room):
            while len(made) < room and not any(stop in text for stop in until):
                tokens = torch.tensor([unread], device=self._model.device)  # [1, T] once, then [1, 1]
                output = self._model(tokens, past_key_values=cache, use_cache=True, logits_to_keep=1)
                cache, chosen = output.past_key_values, int(output.logits[0, -1].argmax())
                if chosen in self._ends:
                    break
                made.append(chosen)
                unread = [chosen]
                text = self.tokenizer.decode(made, skip_special_tokens=True)
        return str(_shaping.postprocess_generated_text(text, list(until), None))


class ServerModel(Bounded, _completions.LocalCompletionsAPI):  # type: ignore[misc]
    """A server with the completions API of OpenAI, as lm-eval's ``local-completions`` asks it, but once."""

    scored_room = 1  # a server has to generate a token, and counts it

    def __init__(
        self,
        url: str,
        model: str,
        *,
        tokenizer: str,
        limit: int,
        api_key: str = "none",
        seconds: float = 60.0,
        seconds_per_token: float = 0.05,
    ) -> None:
        """``tokenizer`` is a folder; a request of n tokens may take ``seconds + n * seconds_per_token``."""
        for part in ("aiohttp", "requests", "tenacity"):  # lm-eval has them as an extra of its own
            require(part, "eval")
        super().__init__(
            base_url=f"{url.rstrip('/').removesuffix('/v1')}/v1/completions",
            model=model,
            tokenizer=tokenizer,
            tokenizer_backend="huggingface",  # "auto" asks the server first
            tokenized_requests=True,
            max_length=limit + 2,  # theirs never cuts: ours refuses before
            max_retries=1,
            header={"Authorization": f"Bearer {api_key}"},
        )
        self.limit = limit
        self._seconds = seconds
        self._seconds_per_token = seconds_per_token

    def _create_payload(self, *args: Any, **kwargs: Any) -> dict[str, Any]:
        # A server takes penalties from the checkpoint's generation config unless they are stated.
        neutral = {"repetition_penalty": 1.0, "frequency_penalty": 0.0, "presence_penalty": 0.0}
        return {**super()._create_payload(*args, **kwargs), **neutral}

    def model_call(self, messages: Sequence[Sequence[int]], **settings: Any) -> Any:
        """The server's answer. Raises ``ServerError`` for any but a good one, at once."""
        requests: Any = require("requests", "eval")
        body = self._create_payload(self.create_message(messages), seed=self._seed, eos=self.eos_string, **settings)
        tokens = sum(map(len, messages)) + body["max_tokens"]
        patience = self._seconds + tokens * self._seconds_per_token
        try:
            answer = requests.post(self.base_url, json=body, headers=self.header, timeout=patience)
        except requests.Timeout:
            raise ServerError(
                f"Expected an answer to {tokens} tokens from {self.base_url} within {patience:.0f} seconds, found "
                "none: allow more seconds for each token."
            ) from None
        except requests.RequestException as error:
            raise ServerError(
                f"Expected a server at {self.base_url}, found none that answers ({type(error).__name__}): is it "
                "running?"
            ) from error
        if not answer.ok:
            raise ServerError(
                f"Expected an answer to {tokens} tokens from {self.base_url}, found HTTP {answer.status_code}: "
                f"{answer.text[:500]}"
            )
        return answer.json()
