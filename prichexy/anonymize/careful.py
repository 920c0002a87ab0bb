"""Bounds for the decoding of files of unknown origin, and a process of its own for each where one is known to kill.

A codec that crashes, or loops for ever, takes its process along. Within the job that is a Ray worker: Ray gives its
task out again, without end and without pause, so one such file would stall the job. A task that was given out before
therefore works carefully: row by row, each in a child process, and the row in whose hands the child dies is set aside.
The child is a fresh Python and no fork, for a worker has threads. Bytes and results go through pipes, never a disk, and
arrive in the parent as bytes: nothing that a hostile file has touched is unpickled there.
"""

import contextlib
import os
import pickle
import resource
import signal
import struct
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import IO, Self

from prichexy.errors import PrichexyError, Quarantined

_DONE, _NO_MEMORY, _FAILED = b"d", b"m", b"f"
_HEADER = struct.Struct(">cQ")
"""Of a message: its kind, and how many bytes follow."""


@contextmanager
def bounded(memory: int, seconds: int) -> Iterator[None]:
    """Bounds on what this process does inside: an allocation too many is a MemoryError, and time that is up ends it.

    The process ends (SIGALRM), not the call: nothing else stops a codec that holds Python's lock. Shared memory, as
    Ray's object store is, does not count. There is no core file either: it would hold the image and the secret. The
    limits from before come back.

    Args:
        memory: bytes that may be allocated beyond those that are now; unbounded where there is no Linux.
        seconds: on the wall clock.
    """
    data, core = resource.getrlimit(resource.RLIMIT_DATA), resource.getrlimit(resource.RLIMIT_CORE)
    allocated = _allocated()
    if allocated is not None:
        resource.setrlimit(resource.RLIMIT_DATA, (_lowest(allocated + memory, *data), data[1]))
    # core(5): a limit of 0 does not keep Linux from piping a core to a program such as systemd-coredump; 1 does.
    resource.setrlimit(resource.RLIMIT_CORE, (_lowest(1, core[1]), core[1]))
    timer = signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, *timer)
        resource.setrlimit(resource.RLIMIT_DATA, data)
        resource.setrlimit(resource.RLIMIT_CORE, core)


def out_of_memory(memory: int) -> Quarantined:
    """Why a file is set aside that needs more than `memory` bytes."""
    return Quarantined("decode", "OutOfMemory", f"decoding the file needs more than {memory:,} bytes of memory")


class Careful:
    """One function, called in a child process that outlives its calls as long as none of them kills it.

    Args:
        work: what to call, importable by its name; it returns bytes.
        memory: bytes that one call may allocate.
        seconds: that one call may take.
    """

    def __init__(self, work: Callable[..., bytes], memory: int, seconds: int) -> None:
        self._task = pickle.dumps((work, memory, seconds))
        self._memory, self._seconds = memory, seconds
        self._child: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if self._child is not None:
            self._child.kill()  # it may be busy, and has nothing to lose
            _ended(self._child)
            self._child = None

    def __call__(self, *arguments: object) -> bytes:
        """What the function returns.

        A child that was killed (SIGKILL) gets a second chance in a new one: where memory is short, the kernel may have
        chosen the wrong victim.

        Raises:
            Quarantined: stage ``decode``; ``OutOfMemory``, ``TookTooLong``, or ``KilledItsProcess`` for other deaths.
            PrichexyError: the function raised an error of another kind, or no child starts.
        """
        request = pickle.dumps(arguments)
        status = 0
        for _ in range(2):
            child = self._child = self._child or self._started()
            kind, reply = _asked(child, request)
            if kind == _DONE:
                return reply
            if kind == _NO_MEMORY:
                raise out_of_memory(self._memory)
            if kind == _FAILED:
                raise PrichexyError(reply.decode())
            self._child = None
            status = _ended(child)
            if status != -signal.SIGKILL:
                break
        raise self._cause(status)

    def _started(self) -> "subprocess.Popen[bytes]":
        """A child that has imported all that it needs, so that its death is the file's doing."""
        for _ in range(3):
            child = subprocess.Popen(
                [sys.executable, "-P", __file__],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                env=os.environ | {"PYTHONPATH": os.pathsep.join(path or str(Path.cwd()) for path in sys.path)},
            )
            if _asked(child, self._task)[0] == _DONE:
                return child
            _ended(child)
        raise PrichexyError("a process for single files does not start on this machine; is its memory exhausted?")

    def _cause(self, status: int) -> Quarantined:
        if status == -signal.SIGALRM:
            message = f"decoding the file takes longer than {self._seconds:,} seconds"
            return Quarantined("decode", "TookTooLong", message)
        if status == -signal.SIGKILL:
            return Quarantined("decode", "OutOfMemory", "decoding the file needs more memory than the machine has")
        return Quarantined("decode", "KilledItsProcess", "decoding the file kills the process that does it")


def _asked(child: "subprocess.Popen[bytes]", request: bytes) -> tuple[bytes, bytes]:
    """Kind and content of the child's answer; ``b""`` twice where it died over the request."""
    assert child.stdin is not None
    assert child.stdout is not None
    try:
        _send(child.stdin, _DONE, request)
        return _received(child.stdout)
    except (BrokenPipeError, EOFError):
        return b"", b""


def _ended(child: "subprocess.Popen[bytes]") -> int:
    """Exit status of a child that is dead or about to be."""
    status = child.wait()
    for pipe in (child.stdin, child.stdout):
        assert pipe is not None
        with contextlib.suppress(BrokenPipeError):  # of what the child did not read any more
            pipe.close()
    return status


def serve() -> None:
    """The child's side: what to call comes first, then the arguments of one call after another."""
    # Of every library that prints, the text would end among the replies: they get a descriptor of their own.
    requests, replies = sys.stdin.buffer, os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    for request_to_stop in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        # A machine that shuts down asks every process to end; the file in hand must not be blamed for it.
        signal.signal(request_to_stop, signal.SIG_IGN)
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGALRM])
    with contextlib.suppress(EOFError, BrokenPipeError):  # the parent needs no more, or is gone
        work, memory, seconds = pickle.loads(_received(requests)[1])
        _send(replies, _DONE, b"")
        while True:
            arguments = pickle.loads(_received(requests)[1])
            _send(replies, *_called(work, arguments, memory, seconds))


def _called(
    work: Callable[..., bytes], arguments: tuple[object, ...], memory: int, seconds: int
) -> tuple[bytes, bytes]:
    """Kind and content of the answer to one request."""
    try:
        with bounded(memory, seconds):
            return _DONE, work(*arguments)
    except MemoryError:
        return _NO_MEMORY, b""
    except PrichexyError as error:
        return _FAILED, str(error).encode()
    except Exception as error:  # its text may quote the file
        return _FAILED, f"work on a single file failed with {type(error).__name__}".encode()


def _send(stream: IO[bytes], kind: bytes, content: bytes) -> None:
    stream.write(_HEADER.pack(kind, len(content)))
    stream.write(content)
    stream.flush()


def _received(stream: IO[bytes]) -> tuple[bytes, bytes]:
    kind, length = _HEADER.unpack(_read(stream, _HEADER.size))
    return kind, _read(stream, length)


def _read(stream: IO[bytes], length: int) -> bytes:
    content = stream.read(length)
    if len(content) < length:
        raise EOFError
    return content


def _allocated() -> int | None:
    """Bytes of private writable memory of this process, as RLIMIT_DATA counts them; None where nothing tells."""
    try:
        pages = int(Path("/proc/self/statm").read_bytes().split()[5])  # proc_pid_statm(5): data + stack
        return pages * resource.getpagesize()
    except OSError:
        return None


def _lowest(*limits: int) -> int:
    return min((limit for limit in limits if limit != resource.RLIM_INFINITY), default=resource.RLIM_INFINITY)


if __name__ == "__main__":
    serve()
