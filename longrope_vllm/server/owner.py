"""Whose requests and files: every owner of keys has its own.

An owner is what the guard found (``doors/guard.py``): a name in the file of keys, whose keys may change, or the SHA-256
of a key of the command line. On a server without keys everybody is the same owner: a token that nobody checks protects
nothing, and a client that sends none would not find what one with a made-up token started.
"""

import hashlib

from fastapi import Request

ANONYMOUS = "anonymous"
KEY = "longrope_key"
"""Of the ASGI scope: the ``Key`` that the guard let in, None where none is asked for."""


def owner_of(request: Request, *, keyed: bool) -> str:
    """Owner behind ``request``. Without our guard, its key is one that vLLM has checked if the server is ``keyed``."""
    key = request.scope.get(KEY)
    if key is not None:
        owner: str = key.owner
        return owner
    if not keyed:
        return ANONYMOUS
    token = request.headers.get("authorization", "").partition(" ")[2]
    return hashlib.sha256(token.encode()).hexdigest()
