"""HTTP route ``POST /v1/responses/input_tokens``: how many tokens a request has, before it is sent, without its ids.

OpenAI's own count route, for requests of its responses API (``client.responses.input_tokens.count(...)``), that also
takes what one would send to chat completions (``messages``) or completions (``prompt``). A document longer than the
context is counted like any other; the answer says how much there is room for, and which tier the prompt would start in.
"""

from typing import Annotated, Any

from fastapi import APIRouter, Body, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import ValidationError

from longrope_vllm.plugin.tiers import ServedTiers
from longrope_vllm.server.api_error import ApiError
from longrope_vllm.server.context_length import PROMPTS
from longrope_vllm.server.files.parts import replace_file_parts
from longrope_vllm.server.files.service import FileService
from longrope_vllm.server.hang_up import while_connected
from longrope_vllm.server.layers import Api
from longrope_vllm.server.prompt_tokens import PromptCounter

router = APIRouter(tags=["longrope"])

EXAMPLES: dict[str, Any] = {
    "responses": {"value": {"input": "How long is this?", "instructions": "Be brief."}},
    "chat": {"value": {"messages": [{"role": "user", "content": "How long is this?"}]}},
    "completions": {"value": {"prompt": "How long is this?"}},
}


@router.post("/v1/responses/input_tokens", summary="Count Prompt Tokens")
async def count(body: Annotated[dict[str, Any], Body(openapi_examples=EXAMPLES)], raw_request: Request) -> Any:
    """Prompt tokens of a request of responses (``input``), chat (``messages``) or completions (``prompt``).

    Exactly what ``usage`` of the answer will say. ``limit`` is the length of the context, prompt and answer together;
    ``longrope`` is null for a model without tiers, and for a prompt that none of them holds.
    """
    state = raw_request.app.state
    api, request = _request(body)
    files: FileService | None = state.longrope_files
    if files is not None and api != "completions":
        await replace_file_parts(api, request, files=files, owner=files.owner(raw_request))
    refused = await state.serving_tokenization._check_model(request)
    prompts: PromptCounter = state.longrope_prompts
    found = refused or await while_connected(raw_request, prompts.count(api, request))
    if found is None:
        return Response(status_code=499)  # for the log: the client has left
    if not isinstance(found, int):
        return JSONResponse(found.model_dump(), status_code=found.error.code)
    return {
        "object": "response.input_tokens",
        "input_tokens": found,
        "limit": prompts.limit,
        "longrope": _tier(ServedTiers.from_vllm_config(state.vllm_config), found),
    }


def _request(body: dict[str, Any]) -> tuple[Api, Any]:
    """The API that ``body`` is for and vLLM's request of it. Raises what vLLM's routes raise for a wrong one."""
    from vllm.entrypoints.openai.chat_completion.protocol import ChatCompletionRequest
    from vllm.entrypoints.openai.completion.protocol import CompletionRequest
    from vllm.entrypoints.openai.responses.protocol import ResponsesRequest

    kinds: dict[Api, Any] = {
        "chat": ChatCompletionRequest,
        "completions": CompletionRequest,
        "responses": ResponsesRequest,
    }
    given: list[Api] = [api for api, field in PROMPTS.items() if body.get(field) is not None]
    if len(given) != 1:
        found = " and ".join(PROMPTS[api] for api in given) or "none of them"
        raise ApiError(
            f"Expected one of input, messages and prompt to count, found {found}: send what you would send to the "
            "API of responses, chat completions or completions.",
            status=400,
            code="invalid_request",
        )
    try:
        return given[0], kinds[given[0]].model_validate(body)
    except ValidationError as error:
        located = [{**one, "loc": ("body", *one["loc"])} for one in error.errors()]
        raise RequestValidationError(located) from error


def _tier(served: ServedTiers | None, tokens: int) -> dict[str, int] | None:
    if served is None or tokens > served.max_length(served.last):
        return None
    tier = served.index_for(tokens)
    return {"tier": tier, "tier_max_length": served.max_length(tier)}
