from pathlib import Path

import pytest

from orchestrator.packages.index import Index
from tests.unit.environments.fakes import settings_in


def index(**more: object) -> Index:
    return Index.of(settings_in(Path("/nowhere"), **more))


@pytest.mark.parametrize(
    ("url", "permitted"),
    [
        ("https://pypi.org/simple/x", True),
        ("https://PyPI.org:443/x", True),
        ("https://files.pythonhosted.org/x", True),
        ("http://files.pythonhosted.org/x", False),
        ("https://files.pythonhosted.org:80/x", False),
        ("https://files.pythonhosted.org.evil.example/x", False),
        ("https://pypi.org@evil.example/x", False),
        ("https://evil.example@pypi.org/x", False),
        ("https://evil.example#@pypi.org/x", False),
        ("https://evil.example\\@pypi.org/x", False),
        ("ftp://pypi.org/x", False),
        ("file:///etc/passwd", False),
        ("//pypi.org/x", False),
        ("https://pypi.org:x/", False),
        ("https://[::1", False),
        ("", False),
    ],
)
def test_files_come_from_the_index_and_its_file_hosts_only(url: str, permitted: bool) -> None:
    assert index().permits(url) is permitted


def test_a_plain_http_index_may_serve_over_http() -> None:
    local = index(index_url="http://127.0.0.1:3141/simple", index_file_hosts=("files.example", "cdn.example:8080"))
    assert local.permits("http://127.0.0.1:3141/x.whl")
    assert local.permits("http://files.example/x.whl")
    assert local.permits("https://files.example/x.whl")
    assert local.permits("http://cdn.example:8080/x.whl")
    assert not local.permits("http://cdn.example/x.whl")
    assert not local.permits("http://127.0.0.1:3142/x.whl")


def test_credentials_are_kept_apart_from_the_url() -> None:
    private = index(index_url="https://user:secret@index.example:8443/simple")
    assert private.url == "https://index.example:8443/simple"
    assert private.credentials == ("user", "secret")
    assert private.is_origin("https://index.example:8443/files/x.whl")
    assert not private.is_origin("https://index.example/files/x.whl")
    assert not private.is_origin("https://files.pythonhosted.org/x.whl")
    assert index().credentials is None
