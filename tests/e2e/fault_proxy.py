"""A bad network before an S3 server: forwards HTTP requests and spoils a seeded share of them, or dies.

The Host header goes on unchanged, so a request's signature, which covers it, stays valid at the server.
"""

import asyncio
import random
import socket
import struct
import threading
import time
from collections import Counter
from collections.abc import Coroutine
from dataclasses import dataclass, field
from typing import Any, Self

KINDS = ("500", "503", "reset", "lost", "cut", "delay")
"""What happens to a request: answered 500 or 503 without reaching the server; the connection reset before the request
reached the server, or after (its answer is lost); the answer's body cut in the middle; everything 2 seconds late."""


@dataclass(frozen=True)
class Message:
    """A request or an answer as it came: first line and header fields, and the body in its transfer coding."""

    head: bytes
    body: bytes

    @property
    def first_line(self) -> str:
        return self.head.partition(b"\r\n")[0].decode("latin-1")

    @property
    def method(self) -> str:
        return self.first_line.split(" ")[0]

    @property
    def path(self) -> str:
        return self.first_line.split(" ")[1]


@dataclass
class FaultProxy:
    """An HTTP proxy on this machine's loopback, in a thread of its own; a context manager.

    Attributes:
        upstream: host and port of the server.
        share: of requests that are spoiled.
        kinds: how; of `KINDS`.
        seed: of the draws. Which request meets which fault depends on the order of arrival too.
        delay: seconds that a late answer is late.
        counts: `requests`, and how many of them met each of `KINDS`.
        died: when it did last, on the monotonic clock.
    """

    upstream: tuple[str, int]
    share: float = 0.05
    kinds: tuple[str, ...] = KINDS
    seed: int = 0
    delay: float = 2.0
    counts: Counter[str] = field(default_factory=Counter)

    def __post_init__(self) -> None:
        self._random = random.Random(self.seed)
        self._deck: list[str] = []
        self._cuts_owed = 0
        self._death: tuple[str, int] | None = None
        self.died = 0.0  # on the monotonic clock
        self._port = 0
        self._server: asyncio.Server | None = None
        self._open: set[asyncio.StreamWriter] = set()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        self._run(self._listen())
        return self

    def __exit__(self, *_: object) -> None:
        self.die()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    @property
    def endpoint(self) -> str:
        """Where clients find the proxy."""
        return f"http://127.0.0.1:{self._port}"

    @property
    def is_dead(self) -> bool:
        """Whether connections are refused."""
        return self._server is None

    def die(self) -> None:
        """Reset all connections and refuse new ones."""
        self._run(self._die())

    def revive(self) -> None:
        """Listen again, at the same port."""
        self._run(self._listen())

    def die_at_put(self, part_of_path: str, number: int) -> None:
        """Die when the so-many-th PUT of an object whose path holds this arrives; it does not reach the server."""
        self._death = part_of_path, number

    def _run(self, work: Coroutine[Any, Any, None]) -> None:
        asyncio.run_coroutine_threadsafe(work, self._loop).result(timeout=30)

    async def _listen(self) -> None:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", self._port)
        self._port = self._server.sockets[0].getsockname()[1]

    async def _die(self) -> None:
        if self._server is not None:
            self._server.close()
            self._server = None
            self.died = time.monotonic()
        for writer in tuple(self._open):
            _reset(writer)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One client's connection, request by request."""
        self._open.add(writer)
        try:
            while (request := await _message(reader, writer)) is not None:
                stays = await self._answer(request, writer)
                await writer.drain()
                if not stays:
                    break
        except (ConnectionError, asyncio.IncompleteReadError):
            _reset(writer)
        finally:
            self._open.discard(writer)
            writer.close()

    async def _answer(self, request: Message, writer: asyncio.StreamWriter) -> bool:
        """Answer, or spoil it; whether the connection stays open."""
        self.counts["requests"] += 1
        if self._is_the_end(request):
            await self._die()
            raise ConnectionResetError
        fault = self._draw()
        if fault not in (None, "cut"):
            self.counts[fault] += 1
        if fault in ("500", "503"):
            writer.write(_refusal(int(fault), request))
            return True
        if fault == "reset":
            raise ConnectionResetError
        if fault == "delay":
            await asyncio.sleep(self.delay)
        answer = await self._forwarded(request)
        if fault == "lost":
            raise ConnectionResetError
        self._cuts_owed += fault == "cut"
        if self._cuts_owed and len(answer.body) > 1:  # the next answer that has a body
            self._cuts_owed -= 1
            self.counts["cut"] += 1
            writer.write(answer.head + answer.body[: len(answer.body) // 2])
            return False
        writer.write(answer.head + answer.body)
        return True

    def _is_the_end(self, request: Message) -> bool:
        if self._death is None or request.method != "PUT" or self._death[0] not in request.path:
            return False
        self._death = self._death[0], self._death[1] - 1
        if self._death[1]:
            return False
        self._death = None
        return True

    def _draw(self) -> str | None:
        """The fault that a request meets; all kinds come equally often, in an order of chance."""
        if self._random.random() >= self.share:
            return None
        if not self._deck:
            self._deck = self._random.sample(self.kinds, len(self.kinds))
        return self._deck.pop()

    async def _forwarded(self, request: Message) -> Message:
        reader, writer = await asyncio.open_connection(*self.upstream)
        try:
            # The proxy has given the client leave to send its body already. No signature covers this field.
            fields = [line for line in request.head.split(b"\r\n") if not line.lower().startswith(b"expect:")]
            writer.write(b"\r\n".join(fields) + request.body)
            answer = await _message(reader, None, request.method == "HEAD")
        finally:
            writer.close()
        if answer is None:
            raise ConnectionResetError
        return answer


async def _message(
    reader: asyncio.StreamReader, leave: asyncio.StreamWriter | None, without_body: bool = False
) -> Message | None:
    """The next request or answer; None where the connection has ended between two.

    Args:
        reader: the connection.
        leave: where a client that waits for it is told to send its body ("100 Continue").
        without_body: whether this answers a HEAD, which announces a length and sends nothing.
    """
    try:
        head = await reader.readuntil(b"\r\n\r\n")
    except asyncio.IncompleteReadError as ended:
        if ended.partial:
            raise
        return None
    if leave is not None and _value(head, "expect") == "100-continue":
        leave.write(b"HTTP/1.1 100 Continue\r\n\r\n")
    body = b""
    if without_body or b" 204 " in head.partition(b"\r\n")[0] or b" 304 " in head.partition(b"\r\n")[0]:
        return Message(head, body)
    if _value(head, "transfer-encoding") == "chunked":
        while True:
            size = await reader.readuntil(b"\r\n")
            length = int(size.partition(b";")[0], 16)
            body += size + await reader.readexactly(length + 2)
            if not length:
                return Message(head, body)
    return Message(head, await reader.readexactly(int(_value(head, "content-length") or 0)))


def _value(head: bytes, name: str) -> str:
    for line in head.split(b"\r\n")[1:]:
        key, _, value = line.decode("latin-1").partition(":")
        if key.strip().lower() == name:
            return value.strip().lower()
    return ""


def _refusal(status: int, request: Message) -> bytes:
    """An error as S3 says it."""
    code, reason = {500: ("InternalError", "Internal Server Error"), 503: ("SlowDown", "Slow Down")}[status]
    body = f'<?xml version="1.0" encoding="UTF-8"?><Error><Code>{code}</Code><Message>{reason}</Message></Error>'
    fields = f"Content-Type: application/xml\r\nContent-Length: {len(body)}\r\n"
    return f"HTTP/1.1 {status} {reason}\r\n{fields}\r\n{'' if request.method == 'HEAD' else body}".encode()


def _reset(writer: asyncio.StreamWriter) -> None:
    """End a connection by RST instead of FIN, as a machine does that has lost its memory of it."""
    connection = writer.get_extra_info("socket")
    if connection is not None and connection.fileno() >= 0:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()
