"""Prompts that are too long, truncated or counted: vLLM's own handlers and templates, without an engine.

The oracle of every number is the tokenizer itself on the rendered prompt, or the ``usage`` of the real handlers.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from engineless import Engineless, engineless
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers

from longrope_vllm.server import context_length
from tiny_models import tiny_llama

LIMIT = 256
PROSE = (Path(__file__).parents[2] / "docs" / "search.md").read_text(encoding="utf-8")
TEMPLATE = (
    "{% if tools %}<|tools|>{{ tools | tojson }}\n{% endif %}"
    "{% for message in messages %}<|{{ message['role'] }}|>{{ message['content'] }}\n{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
TOOL = {"name": "read", "description": "Read a file.", "parameters": {"type": "object", "properties": {}}}


def word_tokenizer(folder: Path) -> Any:
    """Give the checkpoint a tokenizer that was trained on prose, with a token before each text, and a template."""
    from transformers import PreTrainedTokenizerFast

    rust = Tokenizer(models.BPE())
    rust.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=600, initial_alphabet=alphabet, special_tokens=["<s>"], show_progress=False
    )
    rust.train_from_iterator(PROSE.splitlines(keepends=True), trainer)
    rust.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 0)])
    rust.decoder = decoders.ByteLevel()
    fast = PreTrainedTokenizerFast(tokenizer_object=rust, bos_token="<s>")
    fast.chat_template = TEMPLATE
    fast.save_pretrained(folder)
    return fast


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_llama(tmp_path_factory.mktemp("engineless"))


@pytest.fixture(scope="module")
def tokenizer(checkpoint: Path) -> Any:
    return word_tokenizer(checkpoint)


@pytest.fixture(scope="module")
def server(checkpoint: Path, tokenizer: Any) -> Iterator[Engineless]:
    with engineless(checkpoint, "--max-model-len", str(LIMIT)) as started:
        yield started


def tokens(tokenizer: Any, text: str, *, start: bool = True) -> int:
    return len(tokenizer(text, add_special_tokens=start)["input_ids"])


def asked(text: str, system: str = "") -> str:
    """What the template makes of one question."""
    return (f"<|system|>{system}\n" if system else "") + f"<|user|>{text}\n<|assistant|>"


def prose(tokenizer: Any, length: int) -> str:
    """Text of exactly ``length`` tokens, the one before it among them."""
    ids = tokenizer(PROSE)["input_ids"][1:]
    for end in range(length - 1, len(ids)):
        text: str = tokenizer.decode(ids[:end])
        if tokens(tokenizer, text) == length:
            return text
    raise AssertionError(f"no text of {length} tokens")


ROUTES = {
    "completions": ("/v1/completions", "max_tokens"),
    "chat": ("/v1/chat/completions", "max_completion_tokens"),
    "responses": ("/v1/responses", "max_output_tokens"),
}
each_api = pytest.mark.parametrize("api", ROUTES)
each_way = pytest.mark.parametrize("stream", [False, True])


def body(api: str, text: str, max_tokens: int | None = None, **fields: Any) -> dict[str, Any]:
    prompt: dict[str, Any] = {
        "completions": {"prompt": text},
        "chat": {"messages": [{"role": "user", "content": text}]},
        "responses": {"input": text},
    }[api]
    limit = {} if max_tokens is None else {ROUTES[api][1]: max_tokens}
    return {**prompt, **limit, **fields}


def rendered(api: str, tokenizer: Any, text: str) -> int:
    """Prompt tokens of ``body(api, text)``: chats and responses are rendered, chats get no start but the template's."""
    return tokens(tokenizer, text if api == "completions" else asked(text), start=api != "chat")


def refusal(answer: Any) -> dict[str, Any]:
    assert answer.status_code == 400, answer.text
    error: dict[str, Any] = answer.json()["error"]
    assert error["code"] == "context_length_exceeded"
    assert error["limit"] == LIMIT
    assert "maximum context length is 256 tokens" in error["message"]
    return error


def usage(answer: Any) -> int:
    assert answer.status_code == 200, answer.text
    stated = answer.json()["usage"]
    count: int = stated["input_tokens"] if "input_tokens" in stated else stated["prompt_tokens"]
    return count


# what does not fit


@each_api
@each_way
@pytest.mark.parametrize("times", [1, 30])
def test_a_long_prompt_is_refused_with_its_exact_length(
    api: str, stream: bool, times: int, server: Engineless, tokenizer: Any
) -> None:
    text = PROSE * times  # 30 times is more characters than vLLM would tokenize
    error = refusal(server.post(ROUTES[api][0], **body(api, text, stream=stream)))
    assert error["prompt_tokens"] == rendered(api, tokenizer, text)
    assert "max_tokens" not in error


@each_api
@each_way
@pytest.mark.parametrize("max_tokens", [LIMIT - 1, LIMIT, LIMIT + 1, 10_000])
def test_a_prompt_that_leaves_too_little_for_max_tokens_is_refused_with_both(
    api: str, stream: bool, max_tokens: int, server: Engineless, tokenizer: Any
) -> None:
    error = refusal(server.post(ROUTES[api][0], **body(api, "one word", max_tokens, stream=stream)))
    assert (error["prompt_tokens"], error["max_tokens"]) == (rendered(api, tokenizer, "one word"), max_tokens)


def test_the_last_token_that_fits_is_served_and_the_next_is_refused(server: Engineless, tokenizer: Any) -> None:
    text = prose(tokenizer, 200)
    assert usage(server.post("/v1/completions", **body("completions", text, LIMIT - 200))) == 200
    assert server.engine.max_tokens[-1] == LIMIT - 200
    error = refusal(server.post("/v1/completions", **body("completions", text, LIMIT - 199)))
    assert (error["prompt_tokens"], error["max_tokens"]) == (200, LIMIT - 199)


@each_api
def test_a_client_that_leaves_max_tokens_out_gets_the_room_there_is(
    api: str, server: Engineless, tokenizer: Any
) -> None:
    text = prose(tokenizer, 245 if api == "completions" else 225)
    length = usage(server.post(ROUTES[api][0], **body(api, text)))
    assert length == rendered(api, tokenizer, text)
    assert server.engine.max_tokens[-1] == min(LIMIT - length, 16 if api == "completions" else LIMIT)


def test_a_prompt_that_fills_the_window_leaves_nothing_and_is_refused(server: Engineless, tokenizer: Any) -> None:
    answer = server.post("/v1/completions", prompt=prose(tokenizer, LIMIT))
    assert refusal(answer)["prompt_tokens"] == LIMIT


def test_of_several_prompts_the_longest_is_named(server: Engineless, tokenizer: Any) -> None:
    texts = ["short", PROSE[:2000], PROSE[:3000]]
    error = refusal(server.post("/v1/completions", prompt=texts))
    assert error["prompt_tokens"] == tokens(tokenizer, texts[2])


@pytest.mark.parametrize("length", [LIMIT, LIMIT + 1, 5000])
def test_a_prompt_of_token_ids_is_refused_with_their_number(length: int, server: Engineless) -> None:
    assert refusal(server.post("/v1/completions", prompt=[5] * length))["prompt_tokens"] == length


def test_a_text_too_long_to_count_is_refused_with_what_it_has_at_least(
    server: Engineless, tokenizer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(context_length, "COUNTED", len(PROSE))
    error = refusal(server.post("/v1/completions", prompt=PROSE * 3))
    assert "prompt_tokens" not in error
    assert len(PROSE) // 20 < error["prompt_tokens_at_least"] <= tokens(tokenizer, PROSE * 3)


def test_other_refusals_stay_as_they_are(server: Engineless) -> None:
    answer = server.post("/v1/completions", prompt="one", temperature=-1)
    assert answer.status_code == 400
    assert answer.json()["error"]["code"] == 400
    assert server.post("/v1/completions", prompt="one", max_tokens=-1).json()["error"]["code"] == 400


# what is counted


@each_api
def test_the_count_is_what_usage_says(api: str, server: Engineless) -> None:
    text = "How many words has « Die Straße nach Zürich »?\n\n  東京 😀"
    counted = server.post("/v1/responses/input_tokens", **body(api, text)).json()
    assert counted == {
        "object": "response.input_tokens",
        "input_tokens": usage(server.post(ROUTES[api][0], **body(api, text))),
        "limit": LIMIT,
        "longrope": None,
    }


@pytest.mark.parametrize(
    ("route", "fields"),
    [
        ("/v1/responses", {"input": "Read it.", "instructions": "Be brief."}),
        ("/v1/responses", {"input": [{"role": "user", "content": [{"type": "input_text", "text": "Read it."}]}]}),
        ("/v1/responses", {"input": "Read it.", "tools": [{"type": "function", **TOOL}], "tool_choice": "none"}),
        (
            "/v1/chat/completions",
            {
                "messages": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Read it."}],
                "tools": [{"type": "function", "function": TOOL}],
                "tool_choice": "none",
            },
        ),
        (
            "/v1/chat/completions",
            {
                "messages": [{"role": "user", "content": "Go"}, {"role": "assistant", "content": "on"}],
                "add_generation_prompt": False,
                "continue_final_message": True,
            },
        ),
        ("/v1/completions", {"prompt": ["one", "two three"], "add_special_tokens": False}),
        ("/v1/completions", {"prompt": [[1, 2, 3], [4, 5]]}),
    ],
)
def test_the_count_is_what_usage_says_of_richer_requests_too(
    route: str, fields: dict[str, Any], server: Engineless
) -> None:
    counted = server.post("/v1/responses/input_tokens", **fields)
    assert counted.json()["input_tokens"] == usage(server.post(route, **fields))


@each_api
def test_a_document_longer_than_the_window_is_counted(api: str, server: Engineless, tokenizer: Any) -> None:
    text = PROSE * 30
    served = len(server.engine.prompts)
    counted = server.post(
        "/v1/responses/input_tokens", **body(api, text, 10_000, truncation="auto", truncate_prompt_tokens=7)
    )
    assert counted.json()["input_tokens"] == rendered(api, tokenizer, text)
    assert len(server.engine.prompts) == served


@pytest.mark.parametrize(
    ("fields", "status", "said"),
    [
        ({}, 400, "found none of them"),
        ({"input": "one", "prompt": "two"}, 400, "found prompt and input"),
        ({"input": 5}, 400, "body.input"),
        ({"messages": [{"content": "one"}]}, 400, "body.messages"),
        ({"input": "one", "model": "other"}, 404, "other"),
        ({"input": "one", "previous_response_id": "resp_of_nobody"}, 404, "resp_of_nobody"),
    ],
)
def test_what_cannot_be_counted_is_said(fields: dict[str, Any], status: int, said: str, server: Engineless) -> None:
    answer = server.post("/v1/responses/input_tokens", **fields)
    assert answer.status_code == status
    assert said in answer.text


def test_the_route_is_described_with_an_example_for_each_api(server: Engineless) -> None:
    described = server.runner.run(server.client.get("/openapi.json")).json()["paths"]["/v1/responses/input_tokens"]
    examples = described["post"]["requestBody"]["content"]["application/json"]["examples"]
    assert set(examples) == {"responses", "chat", "completions"}
    for example in examples.values():
        assert server.post("/v1/responses/input_tokens", **example["value"]).json()["input_tokens"] > 0


# what is truncated


def events(answer: Any) -> list[Any]:
    lines = [line.removeprefix("data: ") for line in answer.text.splitlines() if line.startswith("data: {")]
    return [json.loads(line) for line in lines]


def test_a_truncated_prompt_is_reported_with_what_was_kept(server: Engineless, tokenizer: Any) -> None:
    answer = server.post("/v1/completions", prompt=PROSE, truncate_prompt_tokens=100)
    assert usage(answer) == 100
    whole = tokens(tokenizer, PROSE)
    assert answer.json()["longrope_truncation"] == {"prompt_tokens": whole, "kept": 100, "side": "left"}


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("times", [1, 30])
def test_the_side_that_the_client_names_is_cut(side: str, times: int, server: Engineless, tokenizer: Any) -> None:
    fields = {"truncate_prompt_tokens": 100, "truncation_side": side}
    told = server.post("/v1/completions", prompt=PROSE * times, **fields).json()["longrope_truncation"]
    assert told == {"prompt_tokens": tokens(tokenizer, PROSE * times), "kept": 100, "side": side}


@each_api
@pytest.mark.parametrize(("max_tokens", "room"), [(50, 50), (None, LIMIT // 4)])
def test_truncation_left_to_the_server_leaves_room_for_the_answer(
    api: str, max_tokens: int | None, room: int, server: Engineless, tokenizer: Any
) -> None:
    wish = {"truncation": "auto"} if api == "responses" else {"truncate_prompt_tokens": -1}
    answer = server.post(ROUTES[api][0], **body(api, PROSE, max_tokens, **wish))
    assert usage(answer) == LIMIT - room
    told = answer.json()["longrope_truncation"]
    assert told == {"prompt_tokens": rendered(api, tokenizer, PROSE), "kept": LIMIT - room, "side": "left"}
    assert server.engine.max_tokens[-1] == (16 if api == "completions" and max_tokens is None else room)


def test_several_prompts_are_reported_together(server: Engineless, tokenizer: Any) -> None:
    texts = [PROSE[:500], PROSE[:900], "short"]
    told = server.post("/v1/completions", prompt=texts, truncate_prompt_tokens=50).json()["longrope_truncation"]
    short = tokens(tokenizer, "short")
    whole = tokens(tokenizer, texts[0]) + tokens(tokenizer, texts[1]) + short
    assert (told["prompt_tokens"], told["kept"]) == (whole, 100 + short)


def test_token_ids_are_truncated_and_reported_like_text(server: Engineless) -> None:
    told = server.post("/v1/completions", prompt=[5] * 70, truncate_prompt_tokens=50).json()["longrope_truncation"]
    assert (told["prompt_tokens"], told["kept"]) == (70, 50)


@each_api
def test_a_stream_tells_it_first_and_with_its_usage(api: str, server: Engineless) -> None:
    wish = {"truncation": "auto"} if api == "responses" else {"truncate_prompt_tokens": 100}
    usage_wish = {} if api == "responses" else {"stream_options": {"include_usage": True}}
    chunks = events(server.post(ROUTES[api][0], **body(api, PROSE, stream=True, **wish, **usage_wish)))
    told = ["longrope_truncation" in chunk.get("response", chunk) for chunk in chunks]
    assert told[0]
    assert told[-1]
    assert told.count(True) == (3 if api == "responses" else 2)  # created, in progress and completed are all of it


@each_api
@each_way
def test_a_prompt_that_fits_is_not_reported(api: str, stream: bool, server: Engineless) -> None:
    wish = {"truncation": "auto"} if api == "responses" else {"truncate_prompt_tokens": 200}
    assert "longrope_truncation" not in server.post(ROUTES[api][0], **body(api, "short", stream=stream, **wish)).text


def test_nothing_is_truncated_for_a_null(server: Engineless, tokenizer: Any) -> None:
    error = refusal(server.post("/v1/responses", input=PROSE, truncation=None))
    assert error["prompt_tokens"] == rendered("responses", tokenizer, PROSE)


def test_a_truncated_prompt_too_long_for_max_tokens_is_refused(server: Engineless) -> None:
    error = refusal(server.post("/v1/completions", prompt=PROSE, truncate_prompt_tokens=250, max_tokens=10))
    assert (error["prompt_tokens"], error["max_tokens"]) == (250, 10)
