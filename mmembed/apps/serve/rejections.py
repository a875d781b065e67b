"""What is said when a request is not served: a status, and one JSON object that names nothing of this machine."""

from __future__ import annotations

import re
from typing import Any

_KINDS = {401: "authentication_error", 403: "permission_error", 429: "rate_limit_error"}
# Parts of our own messages that would tell where something lies, or at which address.
_PLACES = re.compile(r"(?:[A-Za-z]:\\|/)(?:[^\s'\",;:()]+[\\/])+[^\s'\",;:()]*|\b0x[0-9a-fA-F]{6,}\b")
_LONGEST = 500


class Rejection(Exception):
    """A request that is not served.

    Args:
        status: Of HTTP.
        message: What was found and what to do, for the caller.
        code: A word that a program can compare.
        param: The field of the request that it is about.
        retry_after: Seconds after which another attempt makes sense.
    """

    def __init__(
        self,
        status: int,
        message: str,
        *,
        code: str | None = None,
        param: str | None = None,
        retry_after: int | None = None,
    ) -> None:
        super().__init__(message)
        self.status, self.message, self.code, self.param = status, message, code, param
        self.retry_after = retry_after

    def body(self) -> dict[str, Any]:
        """The answer, in OpenAI's form."""
        kind = _KINDS.get(self.status, "invalid_request_error" if self.status < 500 else "server_error")
        return {"error": {"message": plain(self.message), "type": kind, "param": self.param, "code": self.code}}

    def headers(self) -> dict[str, str]:
        """`Retry-After`, and an end of the connection where the rest of a body was not read."""
        headers = {} if self.retry_after is None else {"Retry-After": str(self.retry_after)}
        if self.status in (408, 413, 503):
            headers["Connection"] = "close"
        return headers


def plain(message: str) -> str:
    """One line of a message, short, without paths and addresses in memory.

    Args:
        message: Any text.

    Example:
        >>> plain("cannot read /srv/anna/model/config.json at 0x7f00dead")
        'cannot read … at …'
    """
    line = _PLACES.sub("…", " ".join(message.split()))
    return line if len(line) <= _LONGEST else f"{line[:_LONGEST]}…"
