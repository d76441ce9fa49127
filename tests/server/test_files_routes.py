"""The routes of the Files API, without an engine: OpenAI's client, bodies of every kind, limits, owners."""

import asyncio
import math
import threading
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from files_app import LENGTHS, Clock, app_of, client_of, form_headers, part, refused, send, service, upload
from longrope_vllm.server.files import tokens
from longrope_vllm.server.files.form import Upload, UploadForm
from longrope_vllm.server.files.service import FileService
from longrope_vllm.server.files.store import FileStore
from longrope_vllm.server.in_flight import InFlight, TrackInFlight
from made_pdf import made_pdf


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def files(tmp_path: Path, clock: Clock) -> Iterator[FileService]:
    made = service(tmp_path, clock=clock)
    yield made
    made.store.close()


def nothing_is_left(folder: Path) -> bool:
    return not list((folder / "incoming").iterdir()) and not list((folder / "stored").iterdir())


# OpenAI's client


def test_openais_client_stores_lists_reads_and_deletes(files: FileService) -> None:
    client = openai.OpenAI(api_key="none", base_url="http://testserver/v1", http_client=client_of(files), max_retries=0)
    made = client.files.create(
        file=("notes.md", b"some words here"),
        purpose="user_data",
        expires_after={"anchor": "created_at", "seconds": 3600},
    )
    assert (made.object, made.bytes, made.filename, made.purpose) == ("file", 15, "notes.md", "user_data")
    assert (made.status, made.status_details) == ("processed", None)
    assert made.expires_at == made.created_at + 3600
    assert made.model_extra == {"tokens": 5, "longrope": {"tier": 0, "tier_max_length": LENGTHS[0]}}  # with its heading
    assert client.files.retrieve(made.id) == made
    assert client.files.list().data == [made]
    assert client.files.content(made.id).content == b"some words here"
    assert client.files.delete(made.id).deleted
    with pytest.raises(openai.NotFoundError, match="Expected the id of one of your files") as caught:
        client.files.retrieve(made.id)
    assert caught.value.code == "file_not_found"


def test_a_list_can_be_walked_while_its_files_are_deleted(files: FileService, clock: Clock) -> None:
    client = openai.OpenAI(api_key="none", base_url="http://testserver/v1", http_client=client_of(files))
    made = []
    for number in range(7):
        made.append(client.files.create(file=(f"{number}", b"x"), purpose="user_data").id)
        clock.now += 1
    found = []
    for file in client.files.list(limit=2, order="asc"):
        found.append(file.id)
        client.files.delete(file.id)
    assert found == made


# what is told


@pytest.mark.parametrize(
    ("words", "tier"), [(1, 0), (98, 0), (99, 1), (398, 1), (399, 2), (997, 2), (998, None), (999, None)]
)
def test_the_tier_is_the_shortest_that_holds_the_document(words: int, tier: int | None, files: FileService) -> None:
    told = upload(client_of(files), "w " * words).json()
    assert told["tokens"] == words + 2  # "Document a.txt:"
    if tier is None:
        assert told["longrope"] is None
        assert f"{words + 2:,} tokens and this server reads 1,000" in told["status_details"]
    else:
        assert told["longrope"] == {"tier": tier, "tier_max_length": LENGTHS[tier]}
        assert told["status_details"] is None


def test_a_document_too_long_to_be_counted_is_stored(files: FileService, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tokens, "COUNTED", 10_000)
    client = client_of(files)
    told = upload(client, "w" * 10_001).json()
    assert (told["status"], told["tokens"], told["longrope"]) == ("processed", None, None)
    assert "10,001 bytes of text, more than are counted" in told["status_details"]
    assert client.get(f"/v1/files/{told['id']}").json() == told


def test_a_model_without_tiers_tells_tokens_only(tmp_path: Path) -> None:
    told = upload(client_of(service(tmp_path, tiers=None)), "w").json()
    assert (told["tokens"], told["longrope"], told["status_details"]) == (3, None, None)


def test_a_file_of_another_model_is_counted_again_when_it_is_asked_for(tmp_path: Path) -> None:
    made = upload(client_of(service(tmp_path, model="old")), "w w").json()
    client = client_of(service(tmp_path, model="new"))
    (listed,) = client.get("/v1/files").json()["data"]
    assert (listed["tokens"], listed["longrope"]) == (None, None)
    assert f"GET /v1/files/{made['id']}" in listed["status_details"]
    assert client.get(f"/v1/files/{made['id']}").json() == made
    assert client.get("/v1/files").json()["data"] == [made]


@pytest.mark.parametrize(
    ("name", "content_type", "data"),
    [
        ("a.txt", "text/plain", b"ab\xc3\xa4"),
        ("a.html", "text/html", b"<p>ab"),
        ("a.pdf", "application/pdf", made_pdf(["ab"])),
    ],
)
def test_the_content_is_what_was_sent(name: str, content_type: str, data: bytes, files: FileService) -> None:
    client = client_of(files)
    made = upload(client, data, name, content_type).json()
    assert (made["bytes"], made["tokens"]) == (len(data), 3)
    answer = client.get(f"/v1/files/{made['id']}/content")
    assert answer.content == data
    assert answer.headers["content-type"].startswith(content_type)
    assert answer.headers["content-disposition"] == f'attachment; filename="{name}"'
    assert answer.headers["x-content-type-options"] == "nosniff"


def test_pages_follow_each_other_by_order_and_purpose(files: FileService, clock: Clock) -> None:
    client = client_of(files)
    ids = []
    for number in range(5):
        clock.now += 1
        ids.append(upload(client, "w", purpose="assistants" if number % 2 else "user_data").json()["id"])

    def page(**query: Any) -> tuple[list[str], bool]:
        found = client.get("/v1/files", params=query).json()
        told = [file["id"] for file in found["data"]]
        assert (found["object"], found["first_id"], found["last_id"]) == (
            "list", told[0] if told else None, told[-1] if told else None
        )  # fmt: skip
        return told, found["has_more"]

    assert page() == (ids[::-1], False)
    assert page(order="asc", limit=2) == (ids[:2], True)
    assert page(order="asc", limit=3, after=ids[1]) == (ids[2:], False)
    assert page(limit=2, after=ids[2]) == (ids[1::-1], False)
    assert page(purpose="assistants", order="asc") == ([ids[1], ids[3]], False)
    assert page(after=ids[0]) == ([], False)


def test_an_expired_file_is_gone_from_every_answer_at_once(files: FileService, clock: Clock, tmp_path: Path) -> None:
    client = client_of(files)
    fields = {"expires_after[anchor]": "created_at", "expires_after[seconds]": "60"}
    made = upload(client, "w", **fields).json()
    assert made["expires_at"] == made["created_at"] + 60
    clock.now += 61
    for method, route in routes_of(made["id"]):
        refused(client.request(method, route), 404, "file_not_found")
    assert client.get("/v1/files").json()["data"] == []
    kept = upload(client, "w").json()
    assert [path.name for path in (tmp_path / "stored").iterdir()] == [kept["id"]]


# owners


def routes_of(file_id: str) -> list[tuple[str, str]]:
    route = f"/v1/files/{file_id}"
    return [("GET", route), ("GET", f"{route}/content"), ("DELETE", route)]


def test_a_key_sees_its_own_files_only(tmp_path: Path) -> None:
    files = service(tmp_path, keyed=True)
    clients = {key: client_of(files, key) for key in ("anna", "bert")}
    made = {key: upload(client, key).json() for key, client in clients.items()}
    for key, client in clients.items():
        assert client.get("/v1/files").json()["data"] == [made[key]]
        for owner, told in made.items():
            for method, route in routes_of(told["id"]):
                if owner != key:
                    refused(client.request(method, route), 404, "file_not_found")
        assert client.get(f"/v1/files/{made[key]['id']}/content").text == key
    for key, client in clients.items():
        assert client.delete(f"/v1/files/{made[key]['id']}").json() == {
            "id": made[key]["id"], "object": "file", "deleted": True
        }  # fmt: skip


def test_the_quota_is_that_of_one_key(tmp_path: Path) -> None:
    files = service(tmp_path, keyed=True, owner_bytes=100)
    anna, bert = client_of(files, "anna"), client_of(files, "bert")
    assert upload(anna, "w" * 80).status_code == 200
    refused(upload(anna, "w" * 30), 413, "quota_exceeded", "100 bytes")
    assert upload(bert, "w" * 30).status_code == 200


def test_the_texts_that_are_made_count_for_the_quota(tmp_path: Path) -> None:
    page = "<p>" + "w" * 100
    client = client_of(service(tmp_path, owner_bytes=len(page) + 100))
    refused(upload(client, page, "a.html"), 413, "quota_exceeded")
    assert nothing_is_left(tmp_path)
    assert upload(client_of(service(tmp_path, owner_bytes=len(page) + 101)), page, "a.html").status_code == 200


def test_a_server_without_keys_has_one_owner_whatever_token_is_sent(files: FileService) -> None:
    made = upload(client_of(files, "anything"), "w").json()
    assert client_of(files).get("/v1/files").json()["data"] == [made]


def test_no_key_is_written_down(tmp_path: Path) -> None:
    files = service(tmp_path, keyed=True)
    upload(client_of(files, "very-secret"), "w")
    files.store.close()
    assert not [path for path in tmp_path.rglob("*") if path.is_file() and b"very-secret" in path.read_bytes()]


def test_a_server_that_keeps_no_files_says_so() -> None:
    client = client_of(None)
    refused(upload(client, "w"), 404, "files_not_kept", "longrope serve", "LONGROPE_FILES")
    refused(client.get("/v1/files"), 404, "files_not_kept")


# limits


@pytest.mark.parametrize("announced", [True, False])
def test_a_file_over_the_limit_is_refused_as_soon_as_it_is_known(announced: bool, tmp_path: Path) -> None:
    client = client_of(service(tmp_path, file_bytes=1_000_000))
    read = 0

    def body() -> Iterator[bytes]:
        nonlocal read
        yield part("file", b"", filename="a.txt")[:-2]
        for _ in range(100):
            read += 1
            yield b"x" * 100_000

    headers = form_headers() | ({"Content-Length": "10000200"} if announced else {})
    answer = asyncio.run(send(app_of(client.app.state.longrope_files), body(), headers))  # type: ignore[attr-defined]
    assert (answer[0], answer[1]["error"]["code"], answer[1]["error"]["limit"]) == (413, "file_too_large", 1_000_000)
    assert read == 0 if announced else read < 25
    assert nothing_is_left(tmp_path)


def test_a_file_of_exactly_the_limit_is_taken(tmp_path: Path) -> None:
    client = client_of(service(tmp_path, file_bytes=1000))
    assert upload(client, "x" * 1000).status_code == 200
    refused(upload(client, "x" * 1001), 413, "file_too_large", "1 kB")


def test_the_number_of_files_is_limited(tmp_path: Path) -> None:
    client = client_of(service(tmp_path, owner_files=2))
    ids = [upload(client, "w").json()["id"] for _ in range(2)]
    refused(upload(client, "w"), 413, "too_many_files", "at most 2 files")
    client.delete(f"/v1/files/{ids[0]}")
    assert upload(client, "w").status_code == 200


def test_a_document_that_cannot_be_read_is_not_kept(files: FileService, tmp_path: Path) -> None:
    refused(upload(client_of(files), b"ab\xff"), 400, "file_not_readable", "at offset 2")
    refused(upload(client_of(files), b"%PDF-1.4", "a.pdf"), 400, "file_not_readable", "whole PDF")
    assert nothing_is_left(tmp_path)


# bodies


FILE = part("file", b"some words", filename="a.txt")
PURPOSE = part("purpose", b"user_data")
END = b"--cut--\r\n"

BAD = {
    "no file": (PURPOSE + END, "the field file"),
    "a file without a name": (part("file", b"some words") + PURPOSE + END, "with a file name"),
    "a long file without a name": (part("file", b"w" * 5000) + PURPOSE + END, "needs a file name"),
    "no purpose": (FILE + END, "found none"),
    "a purpose for nothing here": (FILE + part("purpose", b"fine-tune") + END, "found 'fine-tune'"),
    "two files": (FILE + FILE + PURPOSE + END, "a second one"),
    "two purposes": (FILE + PURPOSE + PURPOSE + END, "purpose twice"),
    "cut off in the file": (PURPOSE + FILE[:-5], "cut off"),
    "cut off before the end": (PURPOSE + FILE, "cut off"),
    "empty": (b"", "cut off"),
    "no form": (b"just text", "well-formed"),
    "too many parts": (b"".join(part(f"f{n}", b"") for n in range(70)) + END, "at most 64 parts"),
    "an anchor that is none": (FILE + PURPOSE + part("expires_after[anchor]", b"now") + END, "created_at, found 'now'"),
    "an anchor alone": (FILE + PURPOSE + part("expires_after[anchor]", b"created_at") + END, "found None"),
    "a time that is none": (
        FILE + PURPOSE + part("expires_after[anchor]", b"created_at") + part("expires_after[seconds]", b"-1") + END,
        "found '-1'",
    ),
    "a name in another encoding": (PURPOSE + FILE.replace(b"a.txt", b"\xe4.txt") + END, "file name in UTF-8"),
}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_body_is_one_sentence_and_nothing_is_left(name: str, files: FileService, tmp_path: Path) -> None:
    body, expected = BAD[name]
    refused(client_of(files).post("/v1/files", content=body, headers=form_headers()), 400, "invalid_upload", expected)
    assert nothing_is_left(tmp_path)


@pytest.mark.parametrize("content_type", ["application/json", "multipart/form-data", "multipart/mixed; boundary=cut"])
def test_another_content_type_is_refused(content_type: str, files: FileService) -> None:
    answer = client_of(files).post("/v1/files", content=FILE, headers={"Content-Type": content_type})
    refused(answer, 400, "invalid_upload", content_type)


@pytest.mark.parametrize("query", [{"limit": 0}, {"order": "up"}, {"after": "../x"}, {"purpose": "batch"}])
def test_a_bad_question_for_a_list_is_refused(query: dict[str, Any], files: FileService) -> None:
    assert client_of(files).get("/v1/files", params=query).status_code == 422  # vLLM's app answers 400


def test_a_name_in_any_alphabet_is_kept(files: FileService) -> None:
    client = client_of(files)
    for name in ("Bücher 書.txt", 'a "quoted" one.txt'):
        body = FILE.replace(b"a.txt", name.replace('"', "%22").encode()) + PURPOSE + END
        made = client.post("/v1/files", content=body, headers=form_headers()).json()
        assert made["filename"] == name.replace('"', "%22")
        assert client.get(f"/v1/files/{made['id']}/content").content == b"some words"


@settings(max_examples=100, deadline=None)
@given(data=st.binary(max_size=300), cuts=st.lists(st.integers(0, 600), max_size=12))
def test_a_body_is_the_same_in_any_chunks(data: bytes, cuts: list[int]) -> None:
    if b"\r\n--cut" in data:
        return
    body = PURPOSE + part("file", data, filename="b.bin") + part("expires_after[anchor]", b"created_at")
    body += part("expires_after[seconds]", b"3600") + part("unknown", b"ignored") + END
    edges = [0, *sorted(min(cut, len(body)) for cut in cuts), len(body)]
    form = UploadForm(form_headers()["Content-Type"])
    found = b"".join(form.feed(body[start:end]) for start, end in pairwise(edges))
    assert found == data
    assert form.upload() == Upload(
        filename="b.bin", content_type="application/octet-stream", purpose="user_data", expires_s=3600
    )


@pytest.mark.parametrize("share", [0.0, 0.3, 0.7, 0.99])
def test_a_client_that_leaves_leaves_nothing(share: float, files: FileService, tmp_path: Path) -> None:
    body = PURPOSE + part("file", b"w" * 3_000_000, filename="a.txt") + END
    chunks = [body[start : start + 65_536] for start in range(0, len(body), 65_536)]
    asyncio.run(send(app_of(files), iter(chunks[: math.floor(share * len(chunks))]), form_headers(), leave=True))
    assert nothing_is_left(tmp_path)


@pytest.mark.parametrize("tracked", [False, True], ids=["alone", "behind the middleware of serve"])
def test_a_client_that_leaves_before_the_answer_leaves_nothing(
    tracked: bool, files: FileService, tmp_path: Path
) -> None:
    app = TrackInFlight(app_of(files), in_flight=InFlight()) if tracked else app_of(files)
    asyncio.run(send(app, iter([PURPOSE + FILE + END]), form_headers(), leave_after=True))
    assert nothing_is_left(tmp_path)


def test_a_handler_that_is_cancelled_while_a_folder_is_made_leaves_nothing(
    files: FileService, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    making, make, scratch = threading.Event(), threading.Event(), files.store.scratch
    made: list[Any] = []

    def slowly(*_: object) -> Any:
        making.set()
        make.wait()
        made.append(scratch())
        return made[0]

    monkeypatch.setattr(FileStore, "scratch", slowly)

    async def cancelled() -> None:
        reading = asyncio.ensure_future(
            files.text_of(b"word", filename="a.txt", content_type="text/plain", owner="anna")
        )
        await asyncio.to_thread(making.wait)
        reading.cancel()
        with pytest.raises(asyncio.CancelledError):
            await reading
        make.set()
        while not made or not nothing_is_left(tmp_path):
            await asyncio.sleep(0.01)

    asyncio.run(asyncio.wait_for(cancelled(), 10))


def test_a_document_being_read_holds_nobody_up(tmp_path: Path) -> None:
    """Lists are answered while a page of megabytes is read: before that upload ends, not after it."""
    app = app_of(service(tmp_path))

    async def both() -> list[str]:
        ended: list[str] = []
        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:

            async def long() -> None:
                page = {"file": ("a.html", b"<p>word</p>" * 200_000, "text/html")}
                answer = await client.post("/v1/files", files=page, data={"purpose": "user_data"}, timeout=300)
                assert answer.status_code == 200
                ended.append("upload")

            async def short() -> None:
                for _ in range(20):
                    assert (await client.get("/v1/files")).status_code == 200
                    ended.append("list")

            await asyncio.gather(long(), short())
        return ended

    assert asyncio.run(both()) == ["list"] * 20 + ["upload"]


# the description of the routes


def test_every_route_is_described_with_an_example(files: FileService) -> None:
    described = client_of(files).get("/openapi.json").json()
    routes = {
        (path, method): route for path, methods in described["paths"].items() for method, route in methods.items()
    }
    assert set(routes) == {
        ("/v1/files", "get"),
        ("/v1/files", "post"),
        ("/v1/files/{file_id}", "get"),
        ("/v1/files/{file_id}", "delete"),
        ("/v1/files/{file_id}/content", "get"),
    }
    for (path, _), route in routes.items():
        assert route["description"]
        content = route["responses"]["200"]["content"]
        assert path.endswith("/content") or "example" in content["application/json"]
    assert "multipart/form-data" in routes["/v1/files", "post"]["requestBody"]["content"]
