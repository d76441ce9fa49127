"""Whatever the description of our routes allows or forbids, the answer is never the server's own failure."""

from collections.abc import Iterator
from typing import Any

import pytest
from engineless import Engineless, engineless
from hypothesis import HealthCheck, given, settings

from longrope_vllm.server.doors.settings import DoorSettings
from tiny_models import byte_tokenizer, tiny_llama

requests = pytest.importorskip("requests")
schemathesis = pytest.importorskip("schemathesis")

OURS = (
    *("/v1/longrope", "/v1/requests/{request_id}", "/v1/responses/input_tokens"),
    *("/v1/files", "/v1/files/{file_id}", "/v1/files/{file_id}/content"),
)
LAYERED = ("/v1/chat/completions", "/v1/completions", "/v1/responses")
"""vLLM's routes with our layers around their handlers."""
WRONG = ("/v1/responses/input_tokens", "/v1/files", *LAYERED)
"""Those that take something that can be wrong in form; any text is a name in a path."""
EXAMPLES = 8


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engineless]:
    checkpoint = byte_tokenizer(tiny_llama(tmp_path_factory.mktemp("described")))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LONGROPE_FILES", str(checkpoint.parent / "files"))
        with engineless(checkpoint, doors=DoorSettings()) as started:
            yield started


@pytest.mark.parametrize(
    ("path", "mode"), [*((path, "positive") for path in (*OURS, *LAYERED)), *((path, "negative") for path in WRONG)]
)
def test_no_request_makes_the_server_fail(path: str, mode: str, server: Engineless) -> None:
    described = schemathesis.openapi.from_dict(server.app.openapi())
    for operation in described.include(path=path).get_all_operations():
        strategy = operation.ok().as_strategy(schemathesis.GenerationMode(mode))

        @settings(
            max_examples=EXAMPLES,
            deadline=None,
            derandomize=True,
            database=None,
            suppress_health_check=list(HealthCheck),
        )
        @given(strategy)
        def holds(case: Any) -> None:
            asked = requests.Request(**case.as_transport_kwargs(base_url="http://server")).prepare()
            answer = server.runner.run(
                server.client.request(asked.method, asked.url, headers=dict(asked.headers), content=asked.body or b"")
            )
            assert answer.status_code < 500, (asked.url, asked.body, answer.text)

        holds()
