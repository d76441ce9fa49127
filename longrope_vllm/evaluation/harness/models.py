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

from longrope_vllm.errors import EvaluationError, ServerError
from longrope_vllm.evaluation.greedy import end_tokens, greedy_tokens
from longrope_vllm.evaluation.memory import in_memory
from longrope_vllm.evaluation.over_http import Server
from longrope_vllm.extras import require

_base: Any = require("lm_eval.api.model", "eval")
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
    _write: Callable[..., str]
    """The greedy answer to a prompt, given its ``room`` and the texts ``until`` which it goes."""

    @property
    def prefix_token_id(self) -> int | None:
        """The token that begins a text without context."""
        begin = self.tokenizer.bos_token_id
        found = self.tokenizer.eos_token_id if begin is None else begin
        return None if found is None else int(found)

    def tok_encode(self, string: str | Iterable[str], add_special_tokens: bool | None = None, **_: Any) -> Any:
        """Token ids of a text, or of each of several; ``add_special_tokens`` only ever leaves them out.

        A text that starts with the beginning-of-sequence token, as a chat template writes it, gets no second one.
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

    def check(self, request: Any) -> int:
        """Tokens of ``request``. Raises ``EvaluationError`` when it is longer than the limit."""
        tokens = self.length(request)
        if tokens > self.limit:
            raise EvaluationError(
                f"Expected at most {self.limit} tokens in a request (prompt and room for its answer), found "
                f"{tokens} in sample {request.doc_id} of {request.task_name}: its beginning would be cut off; "
                "raise the limit of the model, ask for a shorter length, or leave this sample out."
            )
        return tokens

    @property
    def eot_token_id(self) -> int | None:
        """The token that ends a text."""
        return None if self.tokenizer.eos_token_id is None else int(self.tokenizer.eos_token_id)

    def generate_until(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[str]:
        """The greedy answer to each request, up to the first of its ``until``."""
        found = []
        for prompt, settings in (request.args for request in requests):
            stops = list(settings["until"])
            text = self._write(self.tok_encode(prompt), room=settings["max_gen_toks"], until=stops)
            found.append(str(_shaping.postprocess_generated_text(text, stops, None)))
        return found

    def loglikelihood_rolling(self, requests: Sequence[Any], disable_tqdm: bool = False) -> NoReturn:
        """Not measured here: lm-eval cuts a document into windows of its own, which hides its length."""
        raise EvaluationError(
            f"Expected a benchmark with questions, found the perplexity of documents in {requests[0].task_name}: use "
            "the task ppl."
        )


class LiveModel(Bounded, _base.TemplateLM):  # type: ignore[misc]
    """A transformers causal language model in this process, one request after the other."""

    def __init__(self, load: Callable[[], Any], tokenizer: Any, *, limit: int, rope_for: RopeFor) -> None:
        """``load`` gives the model when the first request is to be run: lengths are known without its weights.

        ``rope_for`` is asked with the tokens of each request; a model with its own rope takes ``nullcontext``.
        """
        super().__init__()
        self.tokenizer = tokenizer
        self.limit = limit
        self._load = load
        self._rope_for = rope_for

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
        model = self._load()
        longest = max(map(len, continuations))
        tokens = torch.tensor([read], device=model.device)  # [1, T]

        def scores() -> torch.Tensor:
            logits = model(tokens, use_cache=False, logits_to_keep=longest).logits[0]  # [longest, V]
            found: torch.Tensor = logits.float().log_softmax(-1).cpu()  # float32: sums over many tokens
            return found

        with self._rope_for(len(read) + 1):
            scored = in_memory(scores, tokens=len(read))
        found = []
        for continuation in continuations:
            wanted = torch.tensor(continuation)
            rows = scored[longest - len(wanted) :]  # [len(wanted), V]
            total = rows.gather(1, wanted[:, None]).sum().item()
            found.append((total, bool((rows.argmax(-1) == wanted).all())))
        return found

    def _write(self, prompt: list[int], *, room: int, until: Sequence[str]) -> str:
        model = self._load()
        end = end_tokens(model, self.tokenizer)

        def done(made: list[int]) -> bool:
            text = self._decoded(made)
            return any(stop in text for stop in until)

        with self._rope_for(len(prompt) + room):
            made = in_memory(
                lambda: greedy_tokens(model, prompt, max_tokens=room, end=end, done=done), tokens=len(prompt) + room
            )
        return self._decoded(made)

    def _decoded(self, made: list[int]) -> str:
        return str(self.tokenizer.decode(made, skip_special_tokens=True))


class ServerModel(Bounded, _base.TemplateLM):  # type: ignore[misc]
    """A server, asked as for every other task: one request at a time, and each of them once."""

    scored_room = 1  # vLLM keeps room for an answer

    def __init__(self, server: Server, tokenizer: Any) -> None:
        super().__init__()
        self.tokenizer = tokenizer
        self.limit = server.limit
        self._server = server

    def _loglikelihood_tokens(
        self, requests: Sequence[tuple[Any, list[int], list[int]]], **_: Any
    ) -> list[tuple[float, bool]]:
        return [self._score(context, continuation) for _, context, continuation in requests]

    def _score(self, context: list[int], continuation: list[int]) -> tuple[float, bool]:
        echoed = self._server.echo(context + continuation)
        logprobs, best = echoed.logprobs[len(context) - 1 :], echoed.best[len(context) - 1 :]
        if None in best:
            raise ServerError(
                f"Expected the likeliest token at each place from {self._server.url}, found none beside the "
                "log-probabilities: it does not support top_logprobs, so leave out the task short."
            )
        return sum(logprobs), all(mine == likeliest for mine, likeliest in zip(logprobs, best, strict=True))

    def _write(self, prompt: list[int], *, room: int, until: Sequence[str]) -> str:
        return self._server.write(prompt, max_tokens=room, until=until).text
