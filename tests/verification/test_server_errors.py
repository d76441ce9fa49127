"""Every way in which a request comes to nothing is one sentence. Oracle: the errors that the openai SDK raises."""

import json

import httpx
import openai
import pytest

from longrope_vllm.errors import ServerError
from longrope_vllm.server_errors import server_errors

REQUEST = httpx.Request("POST", "http://site/v1/completions")


def response(status: int, body: object) -> openai.APIStatusError:
    found = httpx.Response(status, request=REQUEST, json=body)
    return openai.APIStatusError("status", response=found, body=body)


def caused(error: Exception, cause: Exception) -> Exception:
    error.__cause__ = cause
    return error


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (response(400, {"message": "too long"}), "an answer from http://site/v1/completions, found HTTP 400: too long"),
        (response(502, "<html>"), "found HTTP 502: status"),
        (
            caused(openai.APITimeoutError(REQUEST), httpx.ReadTimeout("late")),
            "an answer from http://site/v1/completions within 7 s, found none: lower --concurrency",
        ),
        (
            caused(openai.APITimeoutError(REQUEST), httpx.ConnectTimeout("timed out")),
            r"a server at http://site, found none that answers \(ConnectTimeout timed out\): is it running",
        ),
        (
            caused(openai.APIConnectionError(request=REQUEST), httpx.ConnectError("refused")),
            r"a server at http://site, found none that answers \(ConnectError refused\)",
        ),
        (openai.APIConnectionError(message="gone", request=REQUEST), r"answers \(APIConnectionError gone\)"),
        (json.JSONDecodeError("Expecting value", "<", 0), "Expected JSON from http://site/v1/completions, found"),
    ],
)
def test_what_went_wrong_is_one_sentence_with_its_cause(error: Exception, message: str) -> None:
    with (
        pytest.raises(ServerError, match=message) as told,
        server_errors(openai, url="http://site", path="/v1/completions", limit=7.0),
    ):
        raise error
    assert told.value.__cause__ is error


def test_errors_of_ours_are_left_alone() -> None:
    with pytest.raises(KeyError), server_errors(openai, url="http://site", path="/", limit=1.0):
        raise KeyError("ours")
