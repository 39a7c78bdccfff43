"""What a session is opened with: a setup's wishes, the settings' defaults, and the settings' bounds. Pure."""

import re
from collections.abc import Iterable

from packaging.utils import canonicalize_name

from orchestrator.api.problems import InvalidMembers
from orchestrator.api.schemas import ResourcesBody, SetupBody
from orchestrator.auth.keys import Principal
from orchestrator.environments.lock_document import LockDocument
from orchestrator.errors import Forbidden
from orchestrator.records import Resources
from orchestrator.sessions.manager import SessionOptions
from orchestrator.settings import Settings

_DISTRIBUTION = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")

Fault = tuple[str, str]


def session_options(body: SetupBody, settings: Settings, principal: Principal) -> SessionOptions:
    """Raises: InvalidMembers: names each member out of bounds, and its bound. Forbidden: egress is not allowed, by the
    server or by the key."""
    resources = body.resources or ResourcesBody()
    ttl_s = settings.session_ttl_s if body.ttl is None else body.ttl
    env = body.env or {}
    faults = [*_over(resources, settings), *_bad_env(env, settings)]
    if ttl_s > settings.session_max_ttl_s:
        faults.append(("ttl", f"at most {settings.session_max_ttl_s} seconds"))
    if faults:
        raise InvalidMembers(faults)
    network = body.network or "none"
    if network == "egress":
        if not settings.allow_egress:
            msg = "this server does not allow network egress"
            raise Forbidden(msg)
        principal.require("egress")
    return SessionOptions(
        resources=Resources(
            memory_mb=settings.memory_mb if resources.memory_mb is None else resources.memory_mb,
            cpus=settings.cpus if resources.cpus is None else resources.cpus,
            pids=settings.pids if resources.pids is None else resources.pids,
            disk_mb=settings.disk_mb if resources.disk_mb is None else resources.disk_mb,
        ),
        network=network,
        env=env,
        ttl_s=ttl_s,
        distributions=_distributions(body.dependencies),
    )


def lock_document(body: SetupBody) -> LockDocument | None:
    """The lock that a setup asks for, if it does. A member with its default asks for nothing.

    Raises: InvalidRequest: it is not whole or was changed. InvalidMembers: something else is asked for beside it.
    """
    if body.lock is None:
        return None
    if body.version is not None or body.dependencies or body.refresh:
        raise InvalidMembers([("lock", "takes the place of version, dependencies and refresh: leave those out")])
    return LockDocument.read(body.lock.model_dump())


def _distributions(dependencies: Iterable[str]) -> tuple[str, ...]:
    """The names that the dependencies begin with, the same for equal sets. What else they say is looked at elsewhere."""
    found = (_DISTRIBUTION.match(dependency.strip()) for dependency in dependencies)
    return tuple(sorted({canonicalize_name(match[0]) for match in found if match}))


def _over(resources: ResourcesBody, settings: Settings) -> list[Fault]:
    bounds: list[tuple[str, float | None, float]] = [
        ("memory_mb", resources.memory_mb, settings.max_memory_mb),
        ("cpus", resources.cpus, settings.max_cpus),
        ("pids", resources.pids, settings.max_pids),
        ("disk_mb", resources.disk_mb, settings.max_disk_mb),
    ]
    return [
        (f"resources.{name}", f"at most {most:g}") for name, asked, most in bounds if asked is not None and asked > most
    ]


def _bad_env(env: dict[str, str], settings: Settings) -> list[Fault]:
    if len(env) > settings.max_env_vars:
        return [("env", f"at most {settings.max_env_vars} variables")]
    if sum(len(name.encode()) + len(value.encode()) for name, value in env.items()) > settings.max_env_bytes:
        return [("env", f"at most {settings.max_env_bytes} bytes of names and values")]
    faults = []
    for name, value in env.items():
        if not VARIABLE.fullmatch(name):
            faults.append((f"env.{name[:100]}", "a variable's name is letters, digits and _, and begins with no digit"))
        elif "\0" in value:
            faults.append((f"env.{name[:100]}", "a value must not hold a NUL character"))
    return faults
