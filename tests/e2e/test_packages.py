"""The main job on real input: twenty packages of the index, each set up in an environment of its own and called."""

from typing import Any

import pytest

from tests.e2e.packages import PACKAGES, Package

pytestmark = [pytest.mark.index, pytest.mark.slow]


@pytest.mark.parametrize("package", PACKAGES, ids=lambda package: package.dependency)
def test_a_package_is_set_up_and_called(server: Any, package: Package) -> None:
    session = server.session(dependencies=[package.dependency])
    try:
        assert session.value(package.namepath, *package.args, timeout=60_000) == package.value
    finally:
        session.close()
