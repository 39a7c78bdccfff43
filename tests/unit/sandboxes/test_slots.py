"""The numbers of a shared sandbox."""

import pytest

from orchestrator.records import Resources
from orchestrator.sandboxes.backend import Sandbox
from orchestrator.sandboxes.slots import block, enlarged, slot_uid
from orchestrator.settings import Settings


@pytest.mark.parametrize(
    ("slots", "uids"), [(0, 1), (1, 4), (2, 4), (3, 8), (50, 64), (62, 64), (63, 128), (1022, 1024)]
)
def test_user_ids_are_as_many_as_a_power_of_two_that_holds_all(slots: int, uids: int) -> None:
    assert block(slots) == uids


def test_a_slots_user_id_is_neither_process_1s_nor_of_what_clears_up() -> None:
    sandbox = Sandbox("5" * 32, "docker", "py", {"uid": "2000064"})
    assert slot_uid(sandbox, 0) == 2_000_066
    assert slot_uid(sandbox, 61) == 2_000_064 + block(62) - 1


def test_memory_processors_and_disk_are_of_some_processes_of_all() -> None:
    found = enlarged(Resources(100, 0.5, 10, 20), Settings(max_sessions_per_sandbox=50, shared_sandbox_shares=4))
    assert (found.memory_mb, found.cpus, found.disk_mb) == (400, 2.0, 80)
    assert found.pids > 50 * 10
