"""Who may pass: a key for everything but health, an admin's for what changes the server. Pure ASGI.

The browser's question before a call (CORS preflight) is let through: it carries no key and reaches no route.
"""

from longrope_vllm.server.api_error import ApiError
from longrope_vllm.server.asgi import App, Message, Receive, Scope, Send
from longrope_vllm.server.doors.access import access_of, is_counted, is_metrics, path_of
from longrope_vllm.server.doors.account import Account, Accounts, LongRequests, Ticket
from longrope_vllm.server.doors.admission import ticket_for
from longrope_vllm.server.doors.answer import header, refuse
from longrope_vllm.server.doors.keyring import Keyring
from longrope_vllm.server.doors.keys_file import Key, Limits
from longrope_vllm.server.doors.settings import Metrics
from longrope_vllm.server.owner import KEY


class Guard:
    """ASGI middleware; ``metrics`` is the switch of ``/metrics``, None for what fits to the keys."""

    def __init__(self, app: App, keyring: Keyring, metrics: Metrics | None) -> None:
        self._app, self._keyring = app, keyring
        self._metrics: Metrics = metrics or ("open" if keyring.is_open else "key")
        self._accounts = Accounts()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one connection."""
        path = path_of(scope)
        try:
            scope[KEY] = key = self._admit(scope, path)
            limited = key is not None and key.limits != Limits() and is_counted(scope, path)
            long = _long_requests(scope) if limited else None
            account = None if key is None or long is None else self._accounts.of(key)
            if account is not None:
                account.take_request()
        except ApiError as error:
            await refuse(error, scope, receive, send)
            return
        if account is None or long is None:
            await self._app(scope, receive, send)
            return
        with ticket_for(account, long) as ticket:
            answer = _Answer(account, ticket, scope, receive, send)
            await self._app(scope, receive, answer.send)

    def _admit(self, scope: Scope, path: str) -> Key | None:
        """The key of a request that may pass, None if it needs none. Raises ``ApiError``."""
        metrics = is_metrics(path)
        if metrics and self._metrics == "off":
            raise ApiError("Expected a server that tells metrics, found --metrics off.", status=404, code="not_found")
        if self._keyring.is_open or _is_preflight(scope):
            return None
        access = access_of(path)
        if access == "open" or (metrics and self._metrics == "open"):
            return None
        key = self._keyring.find(_bearer(scope))
        if key is None:
            raise ApiError(
                "Expected a valid API key, found none or another: send Authorization: Bearer KEY.",
                status=401,
                code="invalid_api_key",
                headers={"www-authenticate": "Bearer"},
            )
        if access == "admin" and not key.admin and _has_route(scope):
            raise ApiError(
                f"Expected a key with admin = true for {path}, found one without: ask whoever runs this server.",
                status=403,
                code="admin_key_required",
            )
        return key


def _long_requests(scope: Scope) -> LongRequests:
    """Kept by the endpoint. Raises ``ApiError`` where that is not there: a limit that nobody holds is none."""
    long: LongRequests | None = getattr(scope["app"].state, "longrope_long", None)
    if long is None:
        raise ApiError(
            "Expected the plugin that holds the limits of this key, found a server without it: start it with "
            "longrope serve, or name longrope in VLLM_PLUGINS.",
            status=500,
            code="limits_not_held",
            type="server_error",
        )
    return long


def _bearer(scope: Scope) -> str:
    """The key that was sent, empty for none."""
    scheme, _, token = (header(scope, b"authorization") or "").partition(" ")
    return token if scheme.lower() == "bearer" else ""


def _is_preflight(scope: Scope) -> bool:
    return (
        scope["type"] == "http"
        and scope["method"] == "OPTIONS"
        and header(scope, b"origin") is not None
        and header(scope, b"access-control-request-method") is not None
    )


def _has_route(scope: Scope) -> bool:
    """False for a path that the app's own router does not know: its answer says so better than a refusal."""
    from starlette.routing import Match

    return any(route.matches(scope)[0] is not Match.NONE for route in scope["app"].routes)


class _Answer:
    """What is sent to the client of a key with limits: with what it has left, and with our refusals as they are.

    Some handlers of vLLM catch every error and answer 500 without saying when to come back.
    """

    def __init__(self, account: Account, ticket: Ticket, scope: Scope, receive: Receive, send: Send) -> None:
        self._account, self._ticket = account, ticket
        self._scope, self._receive, self._send = scope, receive, send
        self._refused = False

    async def send(self, message: Message) -> None:
        """Pass on one message, or the refusal in place of all of them."""
        if self._refused:
            return
        begins = message["type"] == "http.response.start"
        if begins and self._ticket.refusal is not None:
            self._refused = True
            await refuse(self._ticket.refusal, self._scope, self._receive, self._telling)
            return
        await self._telling(message)

    async def _telling(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            told = [(name.encode(), value.encode()) for name, value in self._account.headers()]
            message = {**message, "headers": [*message.get("headers", ()), *told]}
        await self._send(message)
