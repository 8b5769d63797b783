"""Downloads: http(s) only, in time, within their size, and never from a private network unless that is allowed."""

from __future__ import annotations

import io
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from PIL import Image

from umekit.processing import downloads as downloads_module
from umekit.processing.limits import MediaError, MediaLimits
from umekit.processing.sources import read_bytes

LOCAL = MediaLimits(allow_private_urls=True, url_seconds=0.5, file_bytes=100_000)
PUBLIC = MediaLimits(url_seconds=2, file_bytes=100_000)


def png() -> bytes:
    stream = io.BytesIO()
    Image.new("RGB", (8, 8), (1, 2, 3)).save(stream, "PNG")
    return stream.getvalue()


class Handler(BaseHTTPRequestHandler):
    """Every way in which a server can be a bad one."""

    def do_GET(self) -> None:
        with suppress(OSError):  # they hang up on us, which is the point
            getattr(self, "_" + self.path.strip("/").partition("/")[0])()

    def _start(self, status: int = 200, **headers: str) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()

    def _good(self) -> None:
        self._start(Content_Length=str(len(png())))
        self.wfile.write(png())

    def _drip(self) -> None:
        self._start()
        for _ in range(600):
            self.wfile.write(b"x")
            self.wfile.flush()
            time.sleep(0.1)

    def _headers(self) -> None:
        self.wfile.write(b"HTTP/1.1 200 OK\r\n")
        for number in range(600):
            self.wfile.write(b"X-%d: y\r\n" % number)
            self.wfile.flush()
            time.sleep(0.1)

    def _endless(self) -> None:
        self._start()
        while True:
            self.wfile.write(bytes(10_000))

    def _silent(self) -> None:
        time.sleep(60)

    def _garbage(self) -> None:
        self.wfile.write(b"\x16\x03\x01 nothing of HTTP\r\n\r\n")

    def _short(self) -> None:
        self._start(Content_Length="5000")
        self.wfile.write(png())

    def _empty(self) -> None:
        self._start(Content_Length="0")

    def _circle(self) -> None:
        self._start(302, Location="/circle")

    def _elsewhere(self) -> None:
        self._start(302, Location=f"http://127.0.0.2:{self.server.server_address[1]}/good")

    def _file(self) -> None:
        self._start(302, Location="file:///etc/passwd")

    def log_message(self, *args: Any) -> None:
        pass


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    httpd = ThreadingHTTPServer(("0.0.0.0", 0), Handler)
    httpd.daemon_threads = True
    threading.Thread(target=httpd.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{httpd.server_port}"
    httpd.shutdown()


@pytest.fixture
def one_is_public(monkeypatch: pytest.MonkeyPatch) -> None:
    """127.0.0.1 stands for an address of the open internet, and 127.0.0.2 for a private one."""
    monkeypatch.setattr(downloads_module, "_is_public", lambda address: address == "127.0.0.1")


@pytest.mark.parametrize("what", ["drip", "headers", "silent"])
def test_no_server_takes_longer_than_its_time(server: str, what: str) -> None:
    begin = time.monotonic()
    with pytest.raises(MediaError, match=rf"{server}/{what}: .*(0.5 s|timed out)"):
        read_bytes(f"{server}/{what}", LOCAL)
    assert time.monotonic() - begin < 20


@pytest.mark.parametrize(
    ("what", "words"),
    [
        ("endless", "more than the limit of 100000"),
        ("garbage", "BadStatusLine"),
        ("short", "broke off"),
        ("empty", "is empty"),
        ("circle", "infinite loop"),
        ("file", "not allowed|only http"),
    ],
)
def test_bad_answers_are_named(server: str, what: str, words: str) -> None:
    with pytest.raises(MediaError, match=rf"{server}/{what}.*({words})"):
        read_bytes(f"{server}/{what}", LOCAL)


@pytest.mark.usefixtures("one_is_public")
def test_a_redirect_into_a_private_network_is_refused(server: str) -> None:
    assert read_bytes(f"{server}/good", PUBLIC) == png()
    with pytest.raises(MediaError, match="private network"):
        read_bytes(f"{server}/elsewhere", PUBLIC)
    assert read_bytes(f"{server}/elsewhere", LOCAL) == png()


@pytest.mark.usefixtures("one_is_public")
def test_the_address_that_was_checked_is_the_one_that_is_used(
    server: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A name that DNS answers differently a second time: there is no second time."""
    port = int(server.rpartition(":")[2])
    asked: list[str] = []

    def answers(host: str, *_: Any, **__: Any) -> list[Any]:
        asked.append(host)
        address = "127.0.0.1" if len(asked) == 1 else "127.0.0.2"
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port))]

    monkeypatch.setattr(socket, "getaddrinfo", answers)
    assert read_bytes(f"http://rebinding.example:{port}/good", PUBLIC) == png()
    assert asked == ["rebinding.example"]
    with pytest.raises(MediaError, match="private network"):
        read_bytes(f"http://rebinding.example:{port}/good", PUBLIC)


@pytest.mark.usefixtures("one_is_public")
def test_a_proxy_cannot_stand_between(server: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.2:9")
    assert read_bytes(f"{server}/good", PUBLIC) == png()


@pytest.mark.parametrize(
    "address",
    ["127.0.0.1", "10.1.2.3", "172.16.0.1", "192.168.0.1", "169.254.169.254", "100.64.0.1", "0.0.0.0", "224.0.0.1",
     "::1", "::", "fe80::1%eth0", "fc00::1", "ff02::1", "::ffff:127.0.0.1", "::ffff:10.0.0.1", "2002:7f00:1::",
     "64:ff9b::7f00:1", "64:ff9b::a00:1", "64:ff9b:1::a00:1", "64:ff9b:1::808:808", "64:ff9b:1:a9fe:a9:fe00:808:808"],
)  # fmt: skip
def test_private_addresses(address: str) -> None:
    assert not downloads_module._is_public(address)


@pytest.mark.parametrize("address", ["8.8.8.8", "2606:4700::1111", "::ffff:8.8.8.8", "64:ff9b::808:808"])
def test_public_addresses(address: str) -> None:
    assert downloads_module._is_public(address)


@pytest.mark.parametrize(
    "url",
    ["ftp://a.example/b", "http://", "http://[bad/", "http://a:99999/", "HTTPX://a/b"],
)
def test_other_addresses_are_refused(url: str) -> None:
    with pytest.raises(MediaError, match="only http and https"):
        read_bytes(url, LOCAL)


def test_passwords_are_refused_and_not_printed() -> None:
    with pytest.raises(MediaError, match="user name or password") as caught:
        read_bytes("http://me:secret@a.example/b.png", LOCAL)
    assert "secret" not in str(caught.value)
