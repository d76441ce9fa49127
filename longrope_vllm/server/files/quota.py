"""What one key may store: its files and its uploads on their way, which have their room from their first byte on.

An upload says its room in its own folder. So it is given back with the folder, and one whose writer was killed counts
no longer, whichever process asks.
"""

from pathlib import Path

from longrope_vllm.server.api_error import ApiError
from longrope_vllm.server.files.amounts import format_size
from longrope_vllm.server.files.incoming import reservation_in
from longrope_vllm.server.files.records import FileRecord, Records, Usage
from longrope_vllm.server.files.settings import FileSettings


class Quota:
    """Of each owner, from ``records`` and the folders in ``incoming``. To be asked under the store's lock."""

    def __init__(self, settings: FileSettings, records: Records, incoming: Path) -> None:
        self._settings = settings
        self._records = records
        self._incoming = incoming

    def room(self, owner: str, *, least: int, most: int | None) -> tuple[int, ApiError]:
        """Bytes that an upload of ``least`` to ``most`` may take, and the refusal of one more.

        Raises ``ApiError`` where ``least`` is too much.
        """
        if least > self._settings.file_bytes:
            raise too_large(self._settings)
        usage = self._usage(owner)
        if usage.files >= self._settings.owner_files:
            raise self._too_many()
        left = self._settings.owner_bytes - usage.bytes
        if left <= 0 or left < least:
            raise self._over_quota()
        over_limit = self._over_quota() if left < self._settings.file_bytes else too_large(self._settings)
        return min(left, self._settings.file_bytes, left if most is None else most), over_limit

    def check(self, record: FileRecord) -> None:
        """Raise ``ApiError`` unless ``record`` fits, with its text and without the room that it had until now."""
        usage = self._usage(record.owner, but=record.id)
        if usage.files >= self._settings.owner_files:
            raise self._too_many()
        if usage.bytes + record.stored_bytes > self._settings.owner_bytes:
            raise self._over_quota()

    def _usage(self, owner: str, *, but: str | None = None) -> Usage:
        """Stored and on its way, ``but`` for the upload of that id."""
        folders = [folder for folder in self._incoming.iterdir() if folder.name != but]
        reserved = [found.bytes for folder in folders if (found := reservation_in(folder)) and found.owner == owner]
        stored = self._records.usage(owner)
        return Usage(files=stored.files + len(reserved), bytes=stored.bytes + sum(reserved))

    def _over_quota(self) -> ApiError:
        limit = self._settings.owner_bytes
        return ApiError(
            f"Expected at most {format_size(limit)} of files of one key, found more with this one and others on their "
            "way: delete some first.",
            status=413,
            code="quota_exceeded",
            param="file",
            limit=limit,
        )

    def _too_many(self) -> ApiError:
        limit = self._settings.owner_files
        return ApiError(
            f"Expected at most {limit:,} files of one key, found that many already: delete some first.",
            status=413,
            code="too_many_files",
            param="file",
            limit=limit,
        )


def too_large(settings: FileSettings) -> ApiError:
    """The refusal of a file past ``settings.file_bytes``."""
    limit = settings.file_bytes
    return ApiError(
        f"Expected a file of at most {format_size(limit)}, found a longer one: send it in parts, or raise "
        "--file-bytes of the server.",
        status=413,
        code="file_too_large",
        param="file",
        limit=limit,
    )
