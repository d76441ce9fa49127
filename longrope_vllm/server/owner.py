"""Whose requests and files: every API key has its own.

A key is known by its SHA-256 only. On a server without keys everybody is the same owner: a token that nobody checks
protects nothing, and a client that sends none would not find what one with a made-up token started.
"""

import hashlib

from fastapi import Request

ANONYMOUS = "anonymous"


def owner_of(request: Request, *, keyed: bool) -> str:
    """Owner behind ``request``, whose key vLLM has checked if the server is ``keyed``."""
    if not keyed:
        return ANONYMOUS
    token = request.headers.get("authorization", "").partition(" ")[2]
    return hashlib.sha256(token.encode()).hexdigest()
