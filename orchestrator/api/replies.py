"""Records as members of replies, and replies as bytes."""

import json
from collections.abc import Mapping
from datetime import UTC, datetime

from starlette.requests import Request
from starlette.responses import Response

from orchestrator.api import problems
from orchestrator.api.middleware import request_id
from orchestrator.environments.build import Built
from orchestrator.environments.lock_document import LockDocument
from orchestrator.errors import KodouError
from orchestrator.records import Environment, Session
from orchestrator.sessions.manager import Opened

MEDIA_TYPE = "application/json"

Members = dict[str, object]


def reply(members: Mapping[str, object], status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    return Response(problems.dumps(members), status, headers, media_type=MEDIA_TYPE)


def problem(request: Request, error: KodouError) -> Response:
    status, headers, body = problems.render(error, request_id(request.scope))
    return Response(body, status, {name.decode("ascii"): value.decode("latin-1") for name, value in headers})


def rfc3339(moment: datetime) -> str:
    """To the second, in UTC: `2030-01-01T00:00:00Z`."""
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def setup_members(opened: Opened, built: Built, *, cold: str, lock: LockDocument | None) -> Members:
    """The body of a setup that came to a session. `return` repeats the session id: published samples read it there."""
    environment: Members = {**_summary(built.environment), "reused": built.reused}
    if lock is not None:
        environment["lock"] = "exact" if built.environment.id == lock.environment_id else "packages"
    return {
        "sessionid": opened.sessionid,
        "error": False,
        "return": {"error": False, "value": opened.sessionid},
        "environment": environment,
        "expires": rfc3339(opened.session.expires_at),
        "cold": cold,
    }


def environment_listed(environment: Environment) -> Members:
    """No word on who had it made: environments are shared, and what a tenant installs is its own affair."""
    return {
        **_summary(environment),
        "state": environment.state,
        "size_bytes": environment.size_bytes,
        "created": rfc3339(environment.created_at),
        "last_used": rfc3339(environment.last_used_at),
    }


def environment_detail(environment: Environment) -> Members:
    return {
        "error": False,
        **environment_listed(environment),
        "reason": environment.reason,
        "uses": environment.uses,
        "lock": json.loads(environment.document) if environment.document else None,
        "pylock": environment.lock,
    }


def session_listed(session: Session) -> Members:
    """Never the values of `env`: they may be secrets."""
    resources = session.resources
    return {
        "id": session.id,
        "environment": session.environment_id,
        "state": session.state,
        "reason": session.reason,
        "since": rfc3339(session.since),
        "created": rfc3339(session.created_at),
        "last_used": rfc3339(session.last_used_at),
        "expires": rfc3339(session.expires_at),
        "ttl": session.ttl_s,
        "resources": {
            "memory_mb": resources.memory_mb,
            "cpus": resources.cpus,
            "pids": resources.pids,
            "disk_mb": resources.disk_mb,
        },
        "network": session.network,
    }


def _summary(environment: Environment) -> Members:
    return {
        "id": environment.id,
        "language": environment.language,
        "version": environment.version,
        "packages": dict(environment.packages),
    }
