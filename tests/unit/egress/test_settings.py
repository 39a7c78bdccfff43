"""Settings of egress: what is unsafe or senseless is refused at the start; the rest reaches the proxy as it is."""

from ipaddress import ip_network
from pathlib import Path

import pytest
from pydantic import ValidationError

from orchestrator.egress.rules import Rules
from orchestrator.sandboxes.egress_process import rules_of
from orchestrator.settings import Settings


@pytest.mark.parametrize(
    "setting",
    [
        {"egress_hosts": ["*"]},
        {"egress_hosts": ["a.*.example"]},
        {"egress_hosts": ["http://example.org"]},
        {"egress_hosts": ["example.org:443"]},
        {"egress_allowed_networks": ["10.0.0.1/8"]},
        {"egress_denied_networks": ["example.org"]},
        {"egress_proxy": "proxy.example:3128"},
        {"egress_mb_per_s": 0},
    ],
    ids=repr,
)
def test_a_setting_that_means_nothing_is_refused(setting: dict[str, object], tmp_path: Path) -> None:
    with pytest.raises(ValidationError):
        Settings(data_dir=tmp_path, **setting)  # type: ignore[arg-type]


def test_what_is_set_is_what_the_proxy_gets(tmp_path: Path) -> None:
    rules = rules_of(
        Settings(data_dir=tmp_path, egress_hosts=("*.Example.org",), egress_denied_networks=("8.8.8.0/24",))
    )  # type: ignore[arg-type]
    assert (rules.hosts, rules.denied_networks) == (("*.example.org",), (ip_network("8.8.8.0/24"),))


def test_unless_set_it_is_public_web_servers(tmp_path: Path) -> None:
    assert rules_of(Settings(data_dir=tmp_path)) == Rules()
