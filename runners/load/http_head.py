"""Where requests go, and the head that every request carries."""

from __future__ import annotations

import re
import socket
import urllib.parse
from collections.abc import Sequence
from dataclasses import dataclass

from tuner.errors import UnavailableError, UsageError

_TOKEN = re.compile(r"^[!#$%&'*+.^_`|~0-9A-Za-z-]+$")
_OURS = frozenset({"host", "content-length", "transfer-encoding", "connection"})
_UNREADABLE = frozenset({"HEAD", "CONNECT"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Endpoint:
    """A server's address.

    Attributes:
        host: as in the URL.
        address: numeric, resolved once so that no request waits for a name.
        port: TCP port.
        prefix: path before every request's own, without a slash at its end.
        tls: whether to speak HTTPS.
    """

    host: str
    address: str
    port: int
    prefix: str = ""
    tls: bool = False

    @classmethod
    def resolve(cls, url: str) -> Endpoint:
        """The endpoint that `url` names.

        Raises:
            UsageError: it is no http or https URL.
            UnavailableError: its host name has no address.
        """
        try:
            parts = urllib.parse.urlsplit(url)
            port = parts.port
        except ValueError as error:
            raise UsageError(f"{url!r} is no URL: {error}. Write for example http://127.0.0.1:8000.") from error
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise UsageError(f"{url!r} is no http or https URL. Write for example http://127.0.0.1:8000.")
        tls = parts.scheme == "https"
        port = port or (443 if tls else 80)
        try:
            found = socket.getaddrinfo(parts.hostname, port, type=socket.SOCK_STREAM)
        except OSError as error:
            raise UnavailableError(
                f"The host {parts.hostname!r} of {url} has no address ({error.strerror}). Check its spelling."
            ) from error
        return cls(host=parts.hostname, address=str(found[0][4][0]), port=port, prefix=parts.path.rstrip("/"), tls=tls)

    @property
    def authority(self) -> str:
        """Host and port as the Host header has them."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def head(
    endpoint: Endpoint, method: str, path: str, headers: Sequence[tuple[str, str]], *, has_body: bool = True
) -> bytes:
    """A request's head up to the value of Content-Length, which `message` adds.

    Raises:
        UsageError: method, path or a header cannot be sent as it is.
    """
    if not _TOKEN.match(method):
        raise UsageError(f"{method!r} is no HTTP method. Write for example POST.")
    if method.upper() in _UNREADABLE:
        raise UsageError(f"{method} has answers without a body, which say nothing of a model. Write POST or GET.")
    target = endpoint.prefix + (path if path.startswith("/") else f"/{path}")
    target = urllib.parse.quote(target, safe="/?&=%:@!$'()*+,;~#[]-._")
    lines = [f"{method} {target} HTTP/1.1", f"Host: {endpoint.authority}", "User-Agent: serving-tuner"]
    for name, value in headers:
        if not _TOKEN.match(name) or any(character in value for character in "\r\n\0"):
            raise UsageError(f"The header {name!r} cannot be sent. Write a plain name and a value of one line.")
        if name.lower() in _OURS:
            raise UsageError(f"The header {name!r} is set by the load generator. Leave it out.")
        lines.append(f"{name}: {value}")
    text = "\r\n".join(lines) + "\r\n" + ("Content-Length: " if has_body else "\r\n")
    return text.encode("latin-1", errors="replace")


def message(head_bytes: bytes, body: bytes) -> bytes:
    """A whole request: head, length, body."""
    return b"%b%d\r\n\r\n%b" % (head_bytes, len(body), body)
