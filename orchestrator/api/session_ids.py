"""Which session a request means: its body may name it, or the header `X-Session-ID`."""

from orchestrator.errors import InvalidRequest


def named(in_body: str | None, in_header: str | None) -> str:
    """Raises: InvalidRequest: neither names one, or they name two."""
    if not in_body and not in_header:
        msg = "sessionid is missing: name the session in the body or in X-Session-ID"
        raise InvalidRequest(msg, field="sessionid")
    if in_body and in_header and in_body != in_header:
        msg = "sessionid is another than X-Session-ID names: name one session"
        raise InvalidRequest(msg, field="sessionid")
    return in_body or in_header or ""
