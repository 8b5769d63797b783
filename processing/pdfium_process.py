"""Processes that render PDFs for this one, so that no document can hang it, crash it or take its memory.

No call of PDFium can be interrupted, a file of a kilobyte can keep it busy for days (forms within forms), and it is not
thread-safe. So it runs in processes (``pdfium_worker``), one per thread that asks, which are kept for the next document
and killed when a document's time is over. Each keeps the bytes of its last document, so that they are read and sent
once for all of its pages.
"""

from __future__ import annotations

import atexit
import json
import os
import subprocess
import sys
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from PIL import Image

from .limits import Deadline, MediaError, MediaLimits
from .pdfium_worker import PROGRAM, pypdfium2

START_SECONDS = 60.0  # for a process to come up, on a busy machine
CRASHED = "PDFium crashed on it, or wanted more memory than it may take"


class PdfiumProcess:
    """One of them, with the pipes to it.

    Attributes:
        held: key of the document whose bytes it has; None where they have no key.
    """

    def __init__(self) -> None:
        self.held: str | None = None
        self._expired = False
        found = os.pathsep.join(path for path in sys.path if path)
        self._process = subprocess.Popen(
            [sys.executable, PROGRAM],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env={**os.environ, "PYTHONPATH": found},
        )
        with self._killed_after(START_SECONDS):
            ready = self._line()
        if not ready.get("ready"):
            self.close()
            raise OSError("the process that runs PDFium does not start")

    @property
    def alive(self) -> bool:
        """Whether it can be asked."""
        return not self._expired and self._process.poll() is None

    def close(self) -> None:
        """End it."""
        self._process.kill()
        self._process.communicate()

    def let_go(self) -> None:
        """Close the pipes to it, in a forked process: it goes on for the one that started it."""
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                pipe.close()

    def ask(
        self, request: dict[str, Any], data: bytes | None, deadline: Deadline, key: str | None = None
    ) -> tuple[int, list[Image.Image]]:
        """The number of a document's pages, and those that were asked for.

        Args:
            request: see ``pdfium_worker``.
            data: the document; None for the one that is held.
            deadline: when the process is killed.
            key: of the document, under which it is held from now on.

        Raises:
            MediaError: it cannot be read, its time was over, or the process died of it. It is closed then, unless the
                document was merely refused.
        """
        with self._killed_after(deadline.seconds):
            try:
                self._send({**request, "size": None if data is None else len(data)}, data or b"")
                self.held = key
                head = self._answer(deadline)
                if "warning" in head:
                    warnings.warn(head["warning"], stacklevel=2)
                return head["pages"], [self._page(deadline) for _ in range(head["rendered"])]
            except OSError:  # it is gone, and its pipe with it
                raise self._lost(deadline) from None

    def _send(self, request: dict[str, Any], data: bytes) -> None:
        pipe: Any = self._process.stdin
        pipe.write(json.dumps(request).encode() + b"\n")
        pipe.write(data)
        pipe.flush()

    def _answer(self, deadline: Deadline) -> dict[str, Any]:
        entries = self._line()
        if not entries:
            raise self._lost(deadline)
        if "error" in entries:
            raise MediaError(entries["error"])
        return entries

    def _line(self) -> dict[str, Any]:
        pipe: Any = self._process.stdout
        line = pipe.readline()
        return json.loads(line) if line.endswith(b"\n") else {}

    def _page(self, deadline: Deadline) -> Image.Image:
        head = self._answer(deadline)
        size, stride = (head["width"], head["height"]), head["stride"]
        pipe: Any = self._process.stdout
        pixels = pipe.read(stride * size[1])
        if len(pixels) < stride * size[1]:
            raise self._lost(deadline)
        return Image.frombytes("RGB", size, pixels, "raw", "RGB", stride, 1)

    def _lost(self, deadline: Deadline) -> MediaError:
        self.close()
        return deadline.error() if deadline.passed else MediaError(f"{deadline.name}: {CRASHED}")

    @contextmanager
    def _killed_after(self, seconds: float) -> Iterator[None]:
        watch = threading.Timer(seconds, self._expire)
        watch.daemon = True
        watch.start()
        try:
            yield
        finally:
            watch.cancel()
            watch.join()  # one that fired in the last moment has said so before anybody asks again

    def _expire(self) -> None:
        self._expired = True
        self._process.kill()


class PdfiumPool:
    """Processes that nobody asks at the moment. Threads may use it, and so may a process that was forked."""

    def __init__(self) -> None:
        self._idle: list[PdfiumProcess] = []
        self._lock = threading.Lock()

    def holds(self, key: str | None) -> bool:
        """Whether an idle process has the document of a key; it may be gone when it is asked for."""
        with self._lock:
            return key is not None and any(process.held == key for process in self._idle)

    def ask(
        self,
        request: dict[str, Any],
        read: Callable[[], bytes],
        limits: MediaLimits,
        key: str | None = None,
    ) -> tuple[int, list[Image.Image]]:
        """:meth:`PdfiumProcess.ask` of a process that is free, or of a new one; its time begins then.

        Args:
            request: see ``pdfium_worker``.
            read: gives the document, where no free process has it.
            limits: whose ``file_seconds`` count, without the time for ``read``.
            key: what tells the document from every other and from itself after a change; None: it is always read.

        Raises:
            MediaError: also where no process can be started.
            ImportError: pypdfium2 is not installed.
        """
        if pypdfium2 is None:
            raise ImportError("PDF pages need pypdfium2: pip install umekit[media]")
        try:
            process = self._take(key)
        except OSError as error:
            raise MediaError(f"{request['name']}: no process for PDFium ({error})") from error
        try:
            data = None if key is not None and process.held == key else read()
            return process.ask(request, data, Deadline(request["name"], limits), key)
        except BaseException as error:
            if not isinstance(error, MediaError):  # an interrupt: half an answer may be in the pipe
                process.close()
            raise
        finally:
            self._give_back(process)

    def _take(self, key: str | None) -> PdfiumProcess:
        """One that has the document of the key, else any that is free, else a new one."""
        with self._lock:
            for process in [process for process in self._idle if not process.alive]:
                process.close()
                self._idle.remove(process)
            for process in reversed(self._idle):
                if key is not None and process.held == key:
                    self._idle.remove(process)
                    return process
            if self._idle:
                return self._idle.pop()
        return PdfiumProcess()

    def _give_back(self, process: PdfiumProcess) -> None:
        with self._lock:
            if process.alive and len(self._idle) < (os.cpu_count() or 1):
                self._idle.append(process)
                return
        process.close()

    def close(self) -> None:
        """End those that are idle."""
        with self._lock:
            idle, self._idle = self._idle, []
        for process in idle:
            process.close()

    def forget(self) -> None:
        """In a forked process: these answer to the one that started them."""
        idle, self._idle = self._idle, []
        self._lock = threading.Lock()
        for process in idle:
            process.let_go()


POOL = PdfiumPool()
atexit.register(POOL.close)
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=POOL.forget)
