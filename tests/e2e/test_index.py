"""An index of the operator's own: set by a variable, the only one there is, for wheels and for sources."""

import functools
import hashlib
import threading
from collections.abc import Iterator
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from tests.made_packages import sdist, wheel
from tests.servers import running


class _Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def index(tmp_path: Path) -> Iterator[str]:
    """The URL of an index (PEP 503) with a wheel called `tiny` and a source called `fromsource`."""
    source = functools.partial(sdist, at_build='module = "def main():\\n    return 6\\n"')
    for make in (wheel, source):
        made = make(tmp_path)
        project = tmp_path / "simple" / made.name.partition("-")[0]
        project.mkdir(parents=True)
        made = made.rename(project / made.name)
        digest = hashlib.sha256(made.read_bytes()).hexdigest()
        (project / "index.html").write_text(f'<!DOCTYPE html><a href="{made.name}#sha256={digest}">{made.name}</a>')
    handler = functools.partial(_Quiet, directory=str(tmp_path))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as http:
        thread = threading.Thread(target=http.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{http.server_address[1]}/simple"
        http.shutdown()
        thread.join()


def test_packages_come_from_the_index_that_is_set_and_from_no_other(server: Any, index: str) -> None:
    with running(server.backend, KODOU_INDEX_URL=index) as private:
        session = private.session(dependencies=["tiny"])
        assert session.value("tiny.main") == 5
        assert session.setup["environment"]["packages"] == {"tiny": "1.0"}
        assert private.session(dependencies=["tiny", "fromsource"]).value("fromsource.main") == 6
        refused = private.client().post("/environment/python/setup", json={"dependencies": ["numpy"]})
        assert (refused.status_code, refused.json()["code"]) == (422, "dependency_unresolvable")
