"""A served model behind an HTTP endpoint: one question, with time-outs, repeated while the server is busy."""

import json
import time
from dataclasses import dataclass, field
from http.client import HTTPException
from typing import Any
from urllib.error import HTTPError
from urllib.parse import urlsplit
from urllib.request import HTTPRedirectHandler, Request, build_opener

from limbeck import checks
from limbeck.checks import shown
from limbeck.errors import DataError, InputError, one_line

__all__ = ["Server"]

_BUSY = frozenset({408, 425, 429, 500, 502, 503, 504})
_LARGEST = 2**26  # bytes of an answer
_LONGEST_PAUSE = 120.0
_LOCAL = frozenset({"localhost", "127.0.0.1", "::1"})


class _NoRedirects(HTTPRedirectHandler):
    """Redirects are not followed: the key would be sent to wherever they lead."""

    def redirect_request(self, *rest: Any) -> None:
        """Return nothing, so that the redirect is an error."""


@dataclass(frozen=True)
class Server:
    """An endpoint that speaks the API of OpenAI: vLLM, llama.cpp, text-generation servers, OpenAI itself.

    Attributes:
        url: of the API, up to its version, such as http://localhost:8000/v1.
        model: the name of the model there.
        key: sent as a bearer token; it is never written or printed.  None for none.
        timeout: seconds for one answer.
        tries: how often a question is asked while the server is busy or cannot be reached.
        pause: seconds before the second try; it doubles with each further one, unless the server says how long.

    Raises:
        InputError: if the address is none, or a key would be sent unencrypted to another machine.

    Example:
        >>> Server("http://localhost:8000/v1", "small").tries
        6
    """

    url: str
    model: str
    key: str | None = field(default=None, repr=False)
    timeout: float = 60.0
    tries: int = 6
    pause: float = 1.0

    def __post_init__(self) -> None:
        checks.positive("timeout", self.timeout)
        checks.positive("pause", self.pause)
        checks.at_least("tries", self.tries, 1)
        try:
            parts = urlsplit(self.url)
            host = parts.hostname
        except ValueError:
            host, parts = None, urlsplit("")
        if parts.scheme not in ("http", "https") or not host:
            raise InputError(f"url: found {shown(self.url)}, expected one such as http://localhost:8000/v1")
        if self.key is not None and parts.scheme == "http" and host not in _LOCAL:
            raise InputError(f"url: found {shown(self.url)} with a key, expected https; anyone could read the key")
        if self.key is not None and not (self.key.isascii() and self.key.isprintable()):
            raise InputError("key: found one with characters that no header can hold; check the environment variable")

    def ask(self, path: str, question: dict[str, Any]) -> dict[str, Any]:
        """Return the answer to a question; DataError where there is none after all tries, or the server refuses it.

        path: below the address, such as chat/completions.
        """
        address, reason = f"{self.url.rstrip('/')}/{path}", ""
        headers = {"Content-Type": "application/json"}
        if self.key is not None:
            headers["Authorization"] = f"Bearer {self.key}"
        content = json.dumps({"model": self.model, **question}).encode()
        for number in range(self.tries):
            pause = min(self.pause * 2**number, _LONGEST_PAUSE)
            try:
                request = Request(address, content, headers, method="POST")
                with build_opener(_NoRedirects()).open(request, timeout=self.timeout) as answer:
                    raw = answer.read(_LARGEST + 1)
                if len(raw) > _LARGEST:
                    raise DataError(f"url: '{address}' answered more than {_LARGEST:,} bytes; ask for fewer (k)")
                found = json.loads(raw)
                if not isinstance(found, dict):
                    raise DataError(f"url: '{address}' answered no JSON object; check the address")
                return found
            except HTTPError as error:
                said = " ".join(error.read(2000).decode(errors="replace").split())[:200]
                reason = f"{error.code} {error.reason}: {said}"
                if error.code not in _BUSY:
                    raise DataError(f"url: '{address}' refuses the question ({reason}); {_mend(error.code)}") from None
                pause = _asked_for(error.headers.get("Retry-After"), pause)
            except (OSError, HTTPException, ValueError, RecursionError) as error:
                reason = f"{type(error).__name__}: {one_line(error)}"
            if number + 1 < self.tries:
                time.sleep(pause)
        raise DataError(
            f"url: '{address}' gave no answer in {self.tries} tries ({reason[:200]}); start the server, or check the"
            " address, and run the command again: answers so far are kept"
        )


def _asked_for(header: str | None, otherwise: float) -> float:
    """Return the seconds that a server asks to wait for."""
    try:
        return min(max(float(header or otherwise), 0.0), _LONGEST_PAUSE)
    except ValueError:
        return otherwise


def _mend(code: int) -> str:
    if code in (401, 403):
        return "set the environment variable that --key-env names to a key that the server knows"
    if code == 404:
        return "check the address, which ends in the version (/v1), and the model's name"
    return "ask for what the server offers"
