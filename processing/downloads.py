"""Files from http(s) addresses: of bounded size and time, and from the open internet alone unless it is allowed."""

from __future__ import annotations

import http.client
import ipaddress
import socket
import threading
import time
import urllib.parse
import urllib.request
from typing import Any

from .limits import MediaError, MediaLimits, describe, reason

NAT64 = ipaddress.IPv6Network("64:ff9b::/96")  # the last 32 bits are an address of IPv4
# NAT64 of a local network's own (RFC 8215): only that network knows which bits are the address of IPv4.
LOCAL_NAT64 = ipaddress.IPv6Network("64:ff9b:1::/48")


def download(url: str, limits: MediaLimits) -> bytes:
    """The bytes behind an address.

    Raises:
        MediaError: refused, too slow, broken off, or no answer; one byte more than the limit comes back for a file
            that is too large.
    """
    name = describe(url)
    if not limits.allow_urls:
        raise MediaError(f"{name}: addresses are not read here (allow_urls=False)")
    _check_scheme(url, name)
    with _Fetch(url, limits) as fetch:
        try:
            with fetch.opener().open(url, timeout=limits.url_seconds) as response:
                data: bytes = response.read(limits.file_bytes + 1)
                if response.length and len(data) <= limits.file_bytes and not fetch.over:
                    raise MediaError(f"{name}: the download broke off, {response.length} bytes are missing")
        except MediaError:
            raise
        except (OSError, ValueError, http.client.HTTPException) as error:
            if not fetch.over:
                raise MediaError(f"{name}: {reason(error)}") from None
            data = b""
    if fetch.over:  # what was read by then may look like a whole answer
        raise MediaError(f"{name}: the download took longer than the limit of {limits.url_seconds:g} s")
    return data


def _is_public(address: str) -> bool:
    """Whether an address is one of the open internet; one of IPv4 inside IPv6 is judged by itself."""
    found = ipaddress.ip_address(address.partition("%")[0])
    if isinstance(found, ipaddress.IPv6Address):
        if found in LOCAL_NAT64:
            return False
        inner = found.ipv4_mapped or found.sixtofour or (found.teredo or (None, None))[1]
        if found in NAT64:
            inner = ipaddress.IPv4Address(int(found) & 0xFFFFFFFF)
        found = inner or found
    return found.is_global and not found.is_multicast


class _Fetch:
    """One download: its time, and the connection that is open for it.

    A server that sends a byte now and then keeps every read within its timeout. So a timer shuts the connection
    down when the time is over.
    """

    def __init__(self, url: str, limits: MediaLimits) -> None:
        self.name, self.limits = describe(url), limits
        self.over = False
        self._end = time.monotonic() + limits.url_seconds
        self._socket: socket.socket | None = None
        self._timer = threading.Timer(limits.url_seconds, self._stop)
        self._timer.daemon = True

    def __enter__(self) -> _Fetch:
        self._timer.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._timer.cancel()
        self._hold(None)

    def connect(self, address: tuple[str, int], *_: Any, **__: Any) -> socket.socket:
        """Connect to a host by an address that was checked: what DNS says a second time does not count."""
        last: OSError = OSError("the host has no address")
        for family, kind, protocol, _name, place in socket.getaddrinfo(*address, type=socket.SOCK_STREAM):
            if not self.limits.allow_private_urls and not _is_public(str(place[0])):
                raise MediaError(
                    f"{self.name}: the host is in a private network; allow_private_urls=True permits it"
                )
            opened = socket.socket(family, kind, protocol)
            try:
                opened.settimeout(max(self._end - time.monotonic(), 0.01))
                opened.connect(place)
            except OSError as error:
                opened.close()
                last = error
                continue
            self._hold(opened.dup())  # TLS will take the other one over
            return opened
        raise last

    def _hold(self, opened: socket.socket | None) -> None:
        if self._socket is not None:
            self._socket.close()
        self._socket = opened

    def _stop(self) -> None:
        self.over = True
        if self._socket is not None:
            try:
                self._socket.shutdown(socket.SHUT_RDWR)
            except OSError:
                self._socket.close()  # it was closed by the server already

    def opener(self) -> urllib.request.OpenerDirector:
        """An opener whose every connection, also those after redirects, goes through :meth:`connect`."""
        fetch = self

        class Http(urllib.request.HTTPHandler):
            def http_open(self, req: Any) -> Any:
                return self.do_open(fetch._made(http.client.HTTPConnection), req)

        class Https(urllib.request.HTTPSHandler):
            def https_open(self, req: Any) -> Any:
                return self.do_open(fetch._made(http.client.HTTPSConnection), req)

        own: list[Any] = [Http(), Https(), _CheckedRedirects(self.name)]
        if not self.limits.allow_private_urls:
            own.append(urllib.request.ProxyHandler({}))
        return urllib.request.build_opener(*own)

    def _made(self, kind: Any) -> Any:
        def connection(host: str, **options: Any) -> Any:
            made = kind(host, **options)
            made._create_connection = self.connect
            return made

        return connection


class _CheckedRedirects(urllib.request.HTTPRedirectHandler):
    """Redirects stay with http and https."""

    def __init__(self, name: str) -> None:
        self.name = name

    def redirect_request(self, req: Any, fp: Any, code: int, msg: str, headers: Any, newurl: str) -> Any:
        _check_scheme(newurl, f"{self.name} leads to {describe(newurl)}")
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def _check_scheme(url: str, name: str) -> None:
    try:
        parsed = urllib.parse.urlsplit(url)
        good = parsed.scheme in ("http", "https") and bool(parsed.hostname) and (parsed.port or 1) > 0
    except ValueError:
        good = False
    if not good:
        raise MediaError(f"{name}: only http and https addresses are read")
    if "@" in parsed.netloc:
        raise MediaError(
            "an address with a user name or password is not read; fetch it yourself and give bytes"
        )
