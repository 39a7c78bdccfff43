"""Who is turned away for a request's head alone: before its body is taken in, and before a task is made for it.

A refusal that costs as much as a call lets clients that do not wait take the whole server. This one costs a fraction of it, and
is asked for while some are being refused, so that otherwise no call pays for it.
"""

from collections.abc import Callable, Mapping

from starlette.types import Scope

from orchestrator import telemetry
from orchestrator.api.credentials import credentials
from orchestrator.api.parts import Parts
from orchestrator.api.problems import Rendered
from orchestrator.auth.keys import Principal
from orchestrator.errors import KodouError, Unauthorized

# What a request is refused with; None: nothing is known against it, it goes to the app. Asked with the head that has come.
Refuser = Callable[[Scope], Rendered | None]


def admit(_: Scope) -> None:
    """The refuser of who refuses nothing by the head."""


class Admission:
    """One per app: to calls, by the rates and places of keys."""

    def __init__(self, parts: Parts) -> None:
        self._keys = parts.keys
        self._requests = parts.limits.requests

    def refusing(self) -> bool:
        return self._requests.refusing()

    def refusal(self, scope: Scope, headers: Mapping[bytes, bytes]) -> KodouError | None:
        """What the call's endpoint would raise once it came to the limits. Takes no place."""
        principal = self._principal(headers)
        if principal is None or "call" not in principal.scopes:
            return None
        error = self._requests.refusal(principal.key_id)
        if error is not None:
            scope["state"]["key"] = principal.key_id
            telemetry.count_call(error.code, 0.0)
        return error

    def _principal(self, headers: Mapping[bytes, bytes]) -> Principal | None:
        try:
            token = credentials(headers).token
        except Unauthorized:
            return None
        return None if token is None else self._keys.cached(token)
