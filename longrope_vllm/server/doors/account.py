"""What one owner has used lately, against the limits of its key: in this process, each API server counts its own."""

import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from longrope_vllm.server.api_error import ApiError
from longrope_vllm.server.doors.bucket import Bucket
from longrope_vllm.server.doors.keys_file import Key, Limits


@dataclass(frozen=True, kw_only=True)
class LongRequests:
    """When a request is a long one, and how many seconds it may take until one has ended."""

    threshold: int
    """Tokens of a prompt that is not long yet."""
    wait: Callable[[], float]


class Account:
    """One owner's; ``limits`` are those of its key now."""

    def __init__(self, *, clock: Callable[[], float] = time.monotonic) -> None:
        self.limits = Limits()
        self.running_long = 0
        self._requests, self._tokens = Bucket(clock=clock), Bucket(clock=clock)

    def take_request(self) -> None:
        """Count one request. Raises ``ApiError`` 429 when there are too many, or tokens are owed."""
        limit = self.limits.tokens_per_minute
        if limit is not None and (wait := self._tokens.wait(1, per_minute=limit)):
            raise _limited("tokens", "found that they are used up", limit=limit, wait=wait)
        limit = self.limits.requests_per_minute
        if limit is None:
            return
        if wait := self._requests.wait(1, per_minute=limit):
            raise _limited("requests", "found one more", limit=limit, wait=wait)
        self._requests.charge(1, per_minute=limit)

    def check_prompt(self, tokens: int) -> None:
        """Raise ``ApiError`` 400 for a prompt that is longer than the key allows."""
        limit = self.limits.longest_prompt
        if limit is not None and tokens > limit:
            raise ApiError(
                f"Expected a prompt of at most {limit} tokens with this key, found {tokens}: shorten the prompt or use "
                "another key.",
                status=400,
                code="prompt_too_long_for_key",
                prompt_tokens=tokens,
                limit=limit,
            )

    def check_tokens(self, tokens: int) -> None:
        """Raise ``ApiError`` 429 unless ``tokens`` are to be had now."""
        limit = self.limits.tokens_per_minute
        if limit is not None and (wait := self._tokens.wait(tokens, per_minute=limit)):
            raise _limited("tokens", f"found {tokens} more in this prompt", limit=limit, wait=wait)

    def charge_tokens(self, tokens: int) -> None:
        """Take ``tokens``, into debt if need be."""
        if self.limits.tokens_per_minute is not None:
            self._tokens.charge(tokens, per_minute=self.limits.tokens_per_minute)

    def headers(self) -> Iterator[tuple[str, str]]:
        """The ``x-ratelimit-`` headers that clients of OpenAI know."""
        limits = self.limits
        for name, limit, bucket in (
            ("requests", limits.requests_per_minute, self._requests),
            ("tokens", limits.tokens_per_minute, self._tokens),
        ):
            if limit is not None:
                yield f"x-ratelimit-limit-{name}", str(limit)
                yield f"x-ratelimit-remaining-{name}", str(bucket.remaining(per_minute=limit))
                yield f"x-ratelimit-reset-{name}", f"{math.ceil(bucket.full_in())}s"


class Ticket:
    """One request's share of its account: what it was let in with, and what it holds until ``settle``."""

    def __init__(self, account: Account, long: LongRequests) -> None:
        self.taken = False
        """True once whoever handles the request settles it: it may outlive its connection."""
        self.refusal: ApiError | None = None
        """What it was refused with, if it was."""
        self._account, self._long = account, long
        self._holds_slot = False
        self._admitted_whole = False

    def admit(self, prompts: Sequence[int]) -> None:
        """Let in all prompts of the request, given by their tokens. Raises ``ApiError``, and has taken nothing then."""
        try:
            self._admit(prompts)
        except ApiError as error:
            self.refusal = error
            raise

    def _admit(self, prompts: Sequence[int]) -> None:
        longest, account = max(prompts, default=0), self._account
        account.check_prompt(longest)
        long = longest > self._long.threshold and not self._holds_slot
        if long:
            self._check_slot()
        account.check_tokens(sum(prompts))
        account.charge_tokens(sum(prompts))
        if long:
            account.running_long += 1
            self._holds_slot = True

    def admit_whole(self, prompts: Sequence[int]) -> None:
        """As ``admit``; what enters the engine for this request afterwards is part of it."""
        self.admit(prompts)
        self._admitted_whole = True

    def enter(self, tokens: int) -> None:
        """Let one prompt into the engine, unless the request was let in as a whole. Raises ``ApiError``."""
        if not self._admitted_whole:
            self.admit([tokens])

    def settle(self, output_tokens: int) -> None:
        """The request has ended: charge its output, give back its slot."""
        if output_tokens:
            self._account.charge_tokens(output_tokens)
        if self._holds_slot:
            self._account.running_long -= 1
            self._holds_slot = False

    def _check_slot(self) -> None:
        limit = self._account.limits.concurrent_long
        if limit is None or self._account.running_long < limit:
            return
        raise ApiError(
            f"Expected at most {limit} long requests at a time with this key (prompts of more than "
            f"{self._long.threshold} tokens), found {self._account.running_long} running: wait for one to end.",
            status=429,
            code="rate_limit_exceeded",
            type="requests",
            headers=retry_after(self._long.wait()),
            limit=limit,
        )


class Accounts:
    """The accounts of a server, by owner."""

    def __init__(self, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._accounts: dict[str, Account] = {}

    def of(self, key: Key) -> Account:
        """The account of ``key``'s owner, with the limits that the key has now."""
        account = self._accounts.setdefault(key.owner, Account(clock=self._clock))
        account.limits = key.limits
        return account


def retry_after(seconds: float) -> dict[str, str]:
    """The header that says to come back in so many whole seconds, at least one."""
    return {"retry-after": str(max(1, math.ceil(seconds)))}


def _limited(what: str, found: str, *, limit: int, wait: float) -> ApiError:
    return ApiError(
        f"Expected at most {limit} {what} a minute with this key, {found}: try again in {max(1, math.ceil(wait))} s.",
        status=429,
        code="rate_limit_exceeded",
        type=what,
        headers=retry_after(wait),
        limit=limit,
    )
