"""The routes of OpenAI's Files API, under ``/v1/files``."""

from typing import Annotated, Any

from fastapi import APIRouter, Depends, Path, Query, Request
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import FileResponse

from longrope_vllm.server.api_error import ApiError
from longrope_vllm.server.files.file_object import FileDeleted, FileList, FileObject, file_list
from longrope_vllm.server.files.form import PURPOSES
from longrope_vllm.server.files.records import Order, Purpose
from longrope_vllm.server.files.service import FileService

router = APIRouter(prefix="/v1/files", tags=["files"])

_ID = "file-0197f3c2a4d1b5e8c0a94d3f7e2b6c81"
_EXAMPLE = {
    "id": _ID,
    "object": "file",
    "bytes": 4_404_445,
    "created_at": 1_764_000_000,
    "expires_at": 1_766_592_000,
    "filename": "bible.txt",
    "purpose": "user_data",
    "status": "processed",
    "status_details": None,
    "tokens": 1_101_213,
    "longrope": {"tier": 1, "tier_max_length": 2_097_152},
}
_DELETED = {"id": _ID, "object": "file", "deleted": True}
_FORM = {
    "type": "object",
    "required": ["file", "purpose"],
    "properties": {
        "file": {"type": "string", "format": "binary", "description": "Text in UTF-8, HTML or PDF."},
        "purpose": {"type": "string", "enum": list(PURPOSES)},
        "expires_after[anchor]": {"type": "string", "enum": ["created_at"]},
        "expires_after[seconds]": {"type": "integer", "minimum": 1, "description": "After that it is gone."},
    },
}
_FORM_EXAMPLE = {"file": "(the bytes of bible.txt)", "purpose": "user_data"}


def _answer(example: dict[str, Any]) -> dict[int | str, dict[str, Any]]:
    return {200: {"content": {"application/json": {"example": example}}}, 404: _refusal("file_not_found")}


def _refusal(code: str) -> dict[str, Any]:
    error = {"message": "Expected ..., found ...", "type": "invalid_request_error", "param": "file", "code": code}
    return {"description": code, "content": {"application/json": {"example": {"error": error}}}}


def service(request: Request) -> FileService:
    """The files of this server. Raises ``ApiError`` 404 where it keeps none."""
    found: FileService | None = getattr(request.app.state, "longrope_files", None)
    if found is None:
        raise ApiError(
            "Expected a server that keeps files, found one that does not: start it with longrope serve, or name a "
            "directory in LONGROPE_FILES.",
            status=404,
            code="files_not_kept",
        )
    return found


Files = Annotated[FileService, Depends(service)]
FileId = Annotated[str, Path(description="As the upload answered it.", examples=[_ID])]


@router.post(
    "",
    responses={
        **_answer(_EXAMPLE),
        400: _refusal("invalid_upload"),
        413: _refusal("file_too_large"),
        507: _refusal("insufficient_storage"),
    },
    openapi_extra={
        "requestBody": {
            "required": True,
            "content": {"multipart/form-data": {"schema": _FORM, "example": _FORM_EXAMPLE}},
        }
    },
)
async def upload_file(request: Request, files: Files) -> FileObject:
    """Store a document; the answer tells its tokens and the tier that a question on it would start in."""
    return await files.upload(request)


@router.get(
    "",
    responses=_answer({"object": "list", "data": [_EXAMPLE], "first_id": _ID, "last_id": _ID, "has_more": False}),
)
def list_files(
    request: Request,
    files: Files,
    limit: Annotated[int, Query(ge=1, le=10_000)] = 10_000,
    order: Order = "desc",
    after: Annotated[str | None, Query(pattern="^file-[0-9a-f]{32}$", description="Go on after this file.")] = None,
    purpose: Purpose | None = None,
) -> FileList:
    """Your files, the newest first; ``after`` may be a file that was deleted meanwhile."""
    found = files.store.page(files.owner(request), purpose=purpose, after=after, order=order, limit=limit + 1)
    return file_list([files.describe(record) for record in found[:limit]], has_more=len(found) > limit)


@router.get("/{file_id}", responses=_answer(_EXAMPLE))
async def retrieve_file(file_id: FileId, request: Request, files: Files) -> FileObject:
    """One of your files; counted again where that was done for another model."""
    record = await run_in_threadpool(files.store.find, file_id, owner=files.owner(request))
    return files.describe(await files.recount(record))


@router.get(
    "/{file_id}/content",
    response_class=FileResponse,
    responses={
        200: {"content": {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}}},
        404: _refusal("file_not_found"),
    },
)
def file_content(file_id: FileId, request: Request, files: Files) -> FileResponse:
    """The bytes as they were uploaded."""
    owner = files.owner(request)
    record = files.store.find(file_id, owner=owner)
    path = files.store.original(record)
    try:
        found = path.stat()
    except FileNotFoundError:
        files.store.find(file_id, owner=owner)  # deleted this moment
        raise
    return FileResponse(
        path,
        stat_result=found,
        media_type=record.content_type,
        filename=record.filename,
        headers={"x-content-type-options": "nosniff"},  # a page that somebody uploaded is not one of this server
    )


@router.delete("/{file_id}", responses=_answer(_DELETED))
def delete_file(file_id: FileId, request: Request, files: Files) -> FileDeleted:
    """Remove one of your files, for good."""
    files.store.delete(file_id, owner=files.owner(request))
    return FileDeleted(id=file_id)
