"""What a machine cannot hold keeps the server from starting where settings require it."""

import pytest

from orchestrator.errors import EngineUnavailable
from orchestrator.sandboxes.promises import SHARED_SANDBOXES, Promise, require, require_sharing

FOUND = [Promise("memory limit", True, "cgroups"), Promise("second wall", False, "no Landlock")]


def test_what_is_held_may_be_required_and_what_is_not_may_be_left() -> None:
    require(FOUND, ["memory limit"])
    require(FOUND, [])


def test_what_is_required_and_not_held_is_refused_with_the_reason() -> None:
    with pytest.raises(EngineUnavailable, match="'second wall' cannot be held here: no Landlock"):
        require(FOUND, ["memory limit", "second wall"])


def test_a_name_that_nothing_promises_is_not_taken_for_held() -> None:
    with pytest.raises(EngineUnavailable, match="does not promise: memory limits"):
        require(FOUND, ["memory limits"])


def test_sharing_that_cannot_be_had_keeps_a_server_from_starting() -> None:
    require_sharing(FOUND)
    require_sharing([*FOUND, Promise(SHARED_SANDBOXES, True, "root")])
    with pytest.raises(EngineUnavailable, match="KODOU_SHARE_SANDBOXES: they need root"):
        require_sharing([*FOUND, Promise(SHARED_SANDBOXES, False, "they need root")])
