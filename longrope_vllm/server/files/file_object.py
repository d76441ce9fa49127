"""What the routes answer: OpenAI's file objects, with the tokens of a file and the tier a question on it would get."""

from dataclasses import dataclass
from typing import Literal

from pydantic import BaseModel, Field

from longrope_vllm.plugin.tiers import ServedTiers
from longrope_vllm.server.files.records import FileRecord, Purpose


@dataclass(frozen=True, kw_only=True)
class Serving:
    """What a server can read: its limit in tokens, prompt and answer together, and its tiers if it has some."""

    max_model_len: int
    tiers: ServedTiers | None


class FileTier(BaseModel):
    """The tier in which a prompt of this document alone starts: the shortest that holds it."""

    tier: int
    tier_max_length: int


class FileObject(BaseModel):
    """An uploaded file."""

    id: str
    object: Literal["file"] = "file"
    bytes: int
    created_at: int
    expires_at: int | None
    filename: str
    purpose: Purpose
    status: Literal["processed"] = "processed"
    status_details: str | None = Field(description="Why a question on this file cannot be asked, or was not counted.")
    tokens: int | None = Field(description="Tokens that the document takes in a prompt.")
    longrope: FileTier | None = Field(description="None for a model without tiers, and for a document over the limit.")


class FileList(BaseModel):
    """A page of files."""

    object: Literal["list"] = "list"
    data: list[FileObject]
    first_id: str | None
    last_id: str | None
    has_more: bool


class FileDeleted(BaseModel):
    """A file that is gone."""

    id: str
    object: Literal["file"] = "file"
    deleted: Literal[True] = True


def file_object(record: FileRecord, *, tokens: int | None, details: str | None, serving: Serving) -> FileObject:
    """The object of ``record``. ``details`` says why its ``tokens`` are not known, if they are not."""
    tier = None
    if tokens is not None and tokens >= serving.max_model_len:
        details = (
            f"This document has {tokens:,} tokens and this server reads {serving.max_model_len:,}, prompt and answer "
            "together: a question on it is answered with context_length_exceeded."
        )
    elif tokens is not None and serving.tiers is not None:
        index = serving.tiers.index_for(tokens)
        tier = FileTier(tier=index, tier_max_length=serving.tiers.max_length(index))
    return FileObject(
        id=record.id,
        bytes=record.bytes,
        created_at=record.created_at,
        expires_at=record.expires_at,
        filename=record.filename,
        purpose=record.purpose,
        status_details=details,
        tokens=tokens,
        longrope=tier,
    )


def file_list(objects: list[FileObject], *, has_more: bool) -> FileList:
    """A page of ``objects``."""
    ids = [found.id for found in objects]
    return FileList(data=objects, first_id=ids[0] if ids else None, last_id=ids[-1] if ids else None, has_more=has_more)
