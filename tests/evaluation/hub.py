"""A stand-in for the Hub: data sets of a folder, by the requests that ``datasets`` and ``huggingface_hub`` make.

``<root>/<owner>/<name>/<revision>/...`` holds the files of a revision; ``commits`` says which commit each one is.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

DATE = "2026-01-01T00:00:00.000Z"


class Hub:
    """What is served, and what was asked for.

    Attributes:
        commits: repository -> revision -> commit; the commit's files lie in the folder of its revision.
        asked: paths of all requests.
    """

    def __init__(self, root: Path, commits: dict[str, dict[str, str]]) -> None:
        self.root, self.commits = root, commits
        self.asked: list[str] = []

    def folder(self, repo: str, revision: str) -> tuple[Path, str] | None:
        """The files of a branch or commit, and the commit."""
        for name, commit in self.commits.get(repo, {}).items():
            if revision in (name, commit):
                return self.root / repo / name, commit
        return None

    @contextmanager
    def running(self) -> Iterator[str]:
        """Its address."""
        server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"hub": self}))
        thread = Thread(target=server.serve_forever, daemon=True)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            server.server_close()
            thread.join()


class _Handler(BaseHTTPRequestHandler):
    hub: Hub
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: Any) -> None:
        """Nothing on stderr."""

    def do_HEAD(self) -> None:
        self._answer(b"")

    def do_GET(self) -> None:
        self._answer(b"")

    def do_POST(self) -> None:
        self._answer(self.rfile.read(int(self.headers.get("Content-Length") or 0)))

    def _answer(self, sent: bytes) -> None:
        path = unquote(urlsplit(self.path).path)
        self.hub.asked.append(path)
        api = re.fullmatch(
            r"/api/datasets/([^/]+/[^/]+)(?:/(revision|tree|paths-info)/([^/]+)(?:/(.*))?)?", path
        )
        file = re.fullmatch(r"/datasets/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", path)
        if api is not None:
            self._api(api[1], api[2] or "revision", api[3] or "main", api[4] or "", sent)
        elif file is not None:
            self._file(file[1], file[2], file[3])
        else:
            self._missing("RepoNotFound")

    def _api(self, repo: str, what: str, revision: str, below: str, sent: bytes) -> None:
        found = self.hub.folder(repo, revision)
        if found is None:
            return self._missing("RepoNotFound" if repo not in self.hub.commits else "RevisionNotFound")
        folder, commit = found
        every = sorted(folder.rglob("*"))
        if what == "revision":
            names = [{"rfilename": path.relative_to(folder).as_posix()} for path in every if path.is_file()]
            facts = {"id": repo, "sha": commit, "private": False, "gated": False, "disabled": False}
            facts |= {"siblings": names, "tags": [], "downloads": 0, "likes": 0}
            return self._json(facts | {"lastModified": DATE, "createdAt": DATE})
        if what == "paths-info":
            asked = set(parse_qs(sent.decode()).get("paths", []))
            return self._json([self._entry(folder, one) for one in every if self._name(folder, one) in asked])
        deep = parse_qs(urlsplit(self.path).query).get("recursive", [""])[0].lower() in ("true", "1")
        base = folder / below if below else folder
        if not base.is_dir():
            return self._missing("EntryNotFound")
        listed = sorted(base.rglob("*") if deep else base.iterdir())
        return self._json([self._entry(folder, one) for one in listed])

    def _name(self, folder: Path, path: Path) -> str:
        return path.relative_to(folder).as_posix()

    def _entry(self, folder: Path, path: Path) -> dict[str, Any]:
        facts = {"path": self._name(folder, path), "oid": hashlib.sha1(str(path).encode()).hexdigest()}
        if path.is_dir():
            return {"type": "directory", "size": 0, **facts}
        return {"type": "file", "size": path.stat().st_size, **facts}

    def _file(self, repo: str, revision: str, name: str) -> None:
        found = self.hub.folder(repo, revision)
        if found is None:
            return self._missing("RevisionNotFound")
        path = found[0] / name
        if not path.is_file():
            return self._missing("EntryNotFound")
        data = path.read_bytes()
        head = {
            "ETag": f'"{hashlib.sha1(data).hexdigest()}"',
            "X-Repo-Commit": found[1],
            "Accept-Ranges": "bytes",
        }
        part = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range") or "")
        if part is not None:
            first, last = int(part[1]), min(int(part[2] or len(data) - 1), len(data) - 1)
            head["Content-Range"] = f"bytes {first}-{last}/{len(data)}"
            return self._send(206, data[first : last + 1], head)
        return self._send(200, data, head)

    def _json(self, value: Any) -> None:
        self._send(200, json.dumps(value).encode(), {"Content-Type": "application/json"})

    def _missing(self, code: str) -> None:
        self._send(404, b"{}", {"X-Error-Code": code, "Content-Type": "application/json"})

    def _send(self, status: int, data: bytes, head: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in head.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)
