"""The settings' bounds, written into the description of bodies: a client can know them before it is refused."""

from collections.abc import Mapping
from typing import Any

from orchestrator.api.options import VARIABLE
from orchestrator.settings import Settings

Schema = dict[str, Any]


def add(schemas: Mapping[str, Schema], settings: Settings) -> None:
    """Complete the JSON schemas of bodies, in place. `options.py` and `environments/requirements.py` hold to them."""
    resources = schemas["ResourcesBody"]["properties"]
    for name, most in (
        ("memory_mb", settings.max_memory_mb),
        ("cpus", settings.max_cpus),
        ("pids", settings.max_pids),
        ("disk_mb", settings.max_disk_mb),
    ):
        _given(resources[name])["maximum"] = most
    setup = schemas["SetupBody"]["properties"]
    _given(setup["ttl"])["maximum"] = settings.session_max_ttl_s
    if not settings.allow_egress:
        _given(setup["network"])["enum"] = ["none"]
    _given(setup["env"]).update(
        maxProperties=settings.max_env_vars,
        propertyNames={"pattern": f"^{VARIABLE.pattern}$"},
        additionalProperties={"type": "string", "pattern": r"^[^\u0000]*$"},
    )
    setup["dependencies"]["maxItems"] = settings.max_dependencies
    setup["dependencies"]["items"]["maxLength"] = settings.max_dependency_bytes
    schemas["ListOperation"]["properties"]["parallel"]["maximum"] = settings.max_parallel


def _given(schema: Schema) -> Schema:
    """The schema of a value that is not null."""
    found: Schema = next(each for each in schema["anyOf"] if each.get("type") != "null")
    return found
