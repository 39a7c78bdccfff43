"""What a session's runner answers to questions about itself, as the reply of an ordinary route."""

from starlette.responses import Response

from orchestrator.api import call_replies, receipts, replies
from orchestrator.api.parts import Parts
from orchestrator.auth.keys import Principal
from orchestrator.sandboxes.work import Work
from orchestrator.sessions.manager import CallOutcome


async def answer(parts: Parts, principal: Principal, sessionid: str, work: Work, *, timeout_s: float) -> Response:
    """Ask the session, in its turn.

    Raises: what `SessionManager.call` raises; what the runner refuses.
    """
    outcome = await parts.sessions.call(sessionid, principal, work, timeout_s=timeout_s)
    told = call_replies.json_body(outcome.reply)
    if told is None:
        raise call_replies.refusal(outcome.reply)
    return Response(told[1], headers=_receipts(outcome), media_type=replies.MEDIA_TYPE)


def _receipts(outcome: CallOutcome) -> dict[str, str]:
    """As on calls, without the time that the key took to be known, which the framework keeps to itself."""
    headers = dict(call_replies.receipts_of(outcome, 0.0))
    headers[receipts.SERVER_TIMING] = receipts.server_timing(call_replies.phases_of(outcome))
    return {name.decode("ascii"): value.decode("ascii") for name, value in headers.items()}
