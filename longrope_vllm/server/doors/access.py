"""Which path needs which key. What is not named here changes the server, or is not known: it needs an admin's.

Decided on the path of the request as vLLM's router will read it, so that what is let through is what is served.
"""

from collections.abc import Mapping
from typing import Any, Literal

Access = Literal["open", "key", "admin"]
"""Who may call: anybody, every key, a key with ``admin = true``."""

METRICS = "/metrics"
FILES = "/v1/files"
HEALTH = "/health"

_KEY = frozenset(
    {
        *("/v1/models", "/v1/longrope", "/version", "/load", "/ping"),
        *("/openapi.json", "/docs", "/docs/oauth2-redirect", "/redoc"),
        *("/v1/chat/completions", "/v1/chat/completions/batch", "/v1/completions", "/v1/responses"),
        *("/v1/responses/input_tokens", "/v1/messages", "/v1/messages/count_tokens", "/invocations"),
        *("/inference/v1/generate", "/v1/systemone", "/generative_scoring", "/v1/realtime"),
        *("/v1/audio/transcriptions", "/v1/audio/translations", "/tokenize", "/detokenize", "/tokenizer_info"),
        *("/v1/embeddings", "/v2/embed", "/pooling", "/classify", "/score", "/v1/score"),
        *("/rerank", "/v1/rerank", "/v2/rerank", "/cohere/v2/chat", "/cohere/v2/chat/render", FILES),
        *("/v1/chat/completions/render", "/v1/completions/render", "/v1/messages/render", "/v1/responses/render"),
        *("/v1/chat/completions/derender", "/v1/completions/derender"),
    }
)
_KEY_BELOW = ("/v1/responses/", "/v1/requests/", f"{FILES}/", "/static/")

_UNCOUNTED = frozenset(
    {"/ping", "/tokenize", "/detokenize", "/v1/responses/input_tokens", "/v1/messages/count_tokens", FILES}
)
"""POST routes that compute nothing in the engine; nor do those that render and derender."""


def path_of(scope: Mapping[str, Any]) -> str:
    """The path by which the app's router finds the route of ``scope``: without the prefix of ``--root-path``."""
    path: str = scope["path"]
    root: str = scope.get("root_path", "")
    if root and (path == root or path.startswith(f"{root.rstrip('/')}/")):
        return path[len(root.rstrip("/")) :] or "/"
    return path


def access_of(path: str) -> Access:
    """Who may call ``path``, whatever the method. ``/metrics`` has a switch of its own and counts as ``key`` here."""
    if path == HEALTH or path.startswith(f"{HEALTH}/"):
        return "open"
    if path in _KEY or path.startswith(_KEY_BELOW) or is_metrics(path):
        return "key"
    return "admin"


def is_metrics(path: str) -> bool:
    """True for ``/metrics`` and whatever its app answers below."""
    return path == METRICS or path.startswith(f"{METRICS}/")


def is_counted(scope: Mapping[str, Any], path: str) -> bool:
    """True for what counts as a request of a key: it may reach the engine."""
    if scope["type"] == "websocket":
        return True
    if scope["method"] != "POST" or path in _UNCOUNTED or path.endswith(("render", "/cancel")):
        return False
    return access_of(path) == "key"
