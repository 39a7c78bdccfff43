"""The process backend isolates nothing, and does not act as if it did."""

from datetime import UTC, datetime
from pathlib import Path

import pytest

from orchestrator.errors import InvalidRequest
from orchestrator.records import Resources
from orchestrator.sandboxes.backend import Image, SandboxSpec
from orchestrator.sandboxes.process import ProcessBackend
from orchestrator.settings import Settings

pytestmark = pytest.mark.anyio


async def test_egress_is_refused_and_not_silently_the_servers_own_network(tmp_path: Path) -> None:
    backend = ProcessBackend(
        Settings(data_dir=tmp_path, backend="process", allow_process_backend=True, allow_egress=True)
    )
    image = Image("py-none", "none", 0, datetime.now(UTC), {})
    spec = SandboxSpec(Resources(memory_mb=64, cpus=1, pids=8, disk_mb=1), network="egress")
    with pytest.raises(InvalidRequest) as caught:
        await backend.start(image, spec, labels={})
    assert caught.value.field == "network"
