"""A TCP proxy with faults: it slows an upload, withholds its rest, and resets connections when it is told to."""

import asyncio
import socket
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from urllib.parse import urlsplit

_PIECE = 64 * 1024
_RESET = struct.pack("ii", 1, 0)
"""SO_LINGER for no time: a connection that is closed with it is reset."""


@dataclass(kw_only=True)
class FaultProxy:
    """A proxy that listens at ``url`` in front of a server."""

    url: str = ""
    piece: int = _PIECE
    """Bytes of an upload that are passed on at once."""
    pause: float = 0.0
    """Seconds after each of them."""
    upload: int | None = None
    """Bytes that are passed on from each client; None for all."""
    withheld: asyncio.Event = field(default_factory=asyncio.Event)
    """Set once an upload has come to the bytes that are not passed on."""
    _connections: list[asyncio.StreamWriter] = field(default_factory=list)
    _serving: list[asyncio.Task[None]] = field(default_factory=list)

    def accept(self, port: int, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Serve a new client, in front of the server at ``port``."""
        self._serving.append(asyncio.create_task(self._serve(port, reader, writer)))

    async def end(self) -> None:
        """Reset what is left, and wait for it."""
        self.reset()
        for task in self._serving:
            task.cancel()
        await asyncio.gather(*self._serving, return_exceptions=True)

    def reset(self) -> None:
        """Reset every connection on both sides."""
        for connection in self._connections:
            if connection.is_closing():
                continue
            connection.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
            connection.transport.abort()
        self._connections.clear()

    async def _serve(self, port: int, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        from_server, to_server = await asyncio.open_connection("127.0.0.1", port)
        self._connections += [writer, to_server]
        try:
            with suppress(ConnectionError):
                await asyncio.gather(self._upload(reader, to_server), self._download(from_server, writer))
        finally:
            writer.close()
            to_server.close()

    async def _upload(self, reader: asyncio.StreamReader, to_server: asyncio.StreamWriter) -> None:
        sent = 0
        while data := await reader.read(self.piece):
            allowed = data if self.upload is None else data[: max(0, self.upload - sent)]
            sent += len(allowed)
            to_server.write(allowed)
            await to_server.drain()
            if len(allowed) < len(data):
                self.withheld.set()
            await asyncio.sleep(self.pause)

    async def _download(self, from_server: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await from_server.read(_PIECE):
            writer.write(data)
            await writer.drain()
        writer.close()  # the end of an answer without a length


@asynccontextmanager
async def fault_proxy(
    server: str, *, piece: int = _PIECE, pause: float = 0.0, upload: int | None = None
) -> AsyncIterator[FaultProxy]:
    """A proxy in front of the server at the URL ``server``; what is left of its connections is reset at the end."""
    proxy = FaultProxy(piece=piece, pause=pause, upload=upload)
    port = urlsplit(server).port or 80
    listening = await asyncio.start_server(partial(proxy.accept, port), "127.0.0.1", 0)
    proxy.url = f"http://127.0.0.1:{listening.sockets[0].getsockname()[1]}"
    try:
        yield proxy
    finally:
        listening.close()
        await proxy.end()
        await listening.wait_closed()
