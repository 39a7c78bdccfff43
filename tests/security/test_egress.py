"""`"network": "egress"`, from inside: a session reaches public addresses through the proxy, and nothing of the host's.

One server a backend, with egress allowed to the package index's addresses, which a test network may well keep private.
"""

import contextlib
import json
import os
import signal
import socket
import ssl
import time
from collections.abc import Callable, Iterator
from ipaddress import ip_address
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest

from orchestrator.packages.uv import ca_bundle
from orchestrator.settings import Settings
from tests.conftest import engine_required
from tests.own_addresses import own_addresses
from tests.servers import BACKENDS, Server, Session, require, running

SETUP = "/environment/python/setup"
PATIENCE_S = 120.0
INDEX_URL = f"{Settings().index_url.rstrip('/')}/six/"

# How code in a sandbox goes out: it says what came back, whatever that is.
FETCH = """
import os, urllib.error, urllib.request
for name in ("NO_PROXY", "no_proxy"):
    os.environ.pop(name, None)  # all through the proxy, the sandbox's own loopback too
def fetch(url):
    try:
        with urllib.request.urlopen(url, timeout=15) as reply:
            return reply.status, reply.read(200).decode("latin-1")
    except urllib.error.HTTPError as error:
        return error.code, error.read(200).decode("latin-1")
    except OSError as error:
        return None, str(error)
result = fetch(url)
"""
TUNNEL = """
import os, socket
from urllib.parse import urlsplit
def tunnel(authority):
    proxy = urlsplit(os.environ["HTTPS_PROXY"])
    with socket.create_connection((proxy.hostname, proxy.port), 15) as connection:
        answer = b""
        try:
            connection.sendall(f"CONNECT {authority} HTTP/1.1\\r\\n\\r\\n".encode())
            connection.shutdown(socket.SHUT_WR)
            while data := connection.recv(4096):
                answer += data
        except TimeoutError:
            raise
        except OSError:
            pass  # it was cut
    return answer.decode("latin-1")
result = [tunnel(each) for each in authorities]
"""
DIRECT = """
import errno, socket
def direct(kind, host, port):
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, kind) as connection:
        connection.settimeout(5)
        try:
            connection.connect((host, port))
            connection.send(b"x")
        except OSError as error:
            return errno.errorcode.get(error.errno, str(error))
    return "sent"
result = [direct(kind, host, port) for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM) for host, port in addresses]
"""


def run(session: Session, code: str, **names: Any) -> Any:
    """What the statements leave in `result`."""
    expression = f"(lambda names: (exec({code!r}, names), names['result'])[1])({names!r})"
    return session.value("builtins.eval", expression, timeout=60_000)


def opened(server: Server, owner: str = "ada", **body: object) -> Session:
    client = server.client(owner, scopes="setup,call,egress")
    reply = client.post(SETUP, content=json.dumps({"network": "egress", **body}))
    assert reply.status_code == 200, reply.text
    return Session(reply.json()["sessionid"], client, reply.json())


def index_addresses() -> list[str]:
    """Where the index is; none if there is no index."""
    with contextlib.suppress(OSError):
        return sorted({str(found[4][0]) for found in socket.getaddrinfo(urlsplit(INDEX_URL).hostname, 443)})
    return []


@pytest.fixture(scope="module", params=BACKENDS)
def letting_out(request: pytest.FixtureRequest) -> Iterator[Server]:
    require(request.param)
    networks = [address for address in index_addresses() if not ip_address(address).is_global]
    with running(request.param, KODOU_ALLOW_EGRESS="1", KODOU_EGRESS_ALLOWED_NETWORKS=json.dumps(networks)) as server:
        # Its own port is one that may be reached, so that nothing but its address keeps sessions from it.
        again(server, KODOU_EGRESS_PORTS=json.dumps([80, 443, urlsplit(server.url).port]))
        yield server


def again(server: Server, **settings: str) -> None:
    """Crash it, and start it anew with other settings."""
    server.kill()
    server.environment.update(settings)
    server.start()


@pytest.fixture(scope="module")
def session(letting_out: Server) -> Iterator[Session]:
    shared = opened(letting_out)
    yield shared
    shared.close()


def addresses_here() -> list[str]:
    """This host's, but link-local ones, which take a zone."""
    return [address for address in own_addresses() if not ip_address(address).is_link_local]


def bracketed(address: str) -> str:
    return f"[{address}]" if ":" in address else address


def test_the_servers_own_api_is_out_of_reach_by_any_address_of_this_host(letting_out: Server, session: Session) -> None:
    port = urlsplit(letting_out.url).port
    addresses = [*addresses_here(), "172.17.0.1", "0.0.0.0", "127.0.0.2"]
    for host in (*map(bracketed, addresses), "localhost", socket.gethostname()):
        status, said = run(session, FETCH, url=f"http://{host}:{port}/healthz")
        assert status == 403, (host, said)
        assert "address" in said, said


def test_private_and_special_addresses_are_refused(session: Session) -> None:
    hosts = [
        *("127.0.0.1", "127.1", "2130706433", "0x7f000001", "0177.0.0.1", "10.0.0.1", "192.168.1.1", "172.16.0.1"),
        *("169.254.169.254", "100.64.0.1", "100.100.100.200", "168.63.129.16", "224.0.0.1", "240.0.0.1"),
        *("[::1]", "[::]", "[::ffff:127.0.0.1]", "[::127.0.0.1]", "[64:ff9b::7f00:1]", "[64:ff9b::a9fe:a9fe]"),
        *("[2002:7f00:1::]", "[2001:0:7f00:1::]", "[fe80::1]", "[fc00::1]", "[fd00:ec2::254]", "[ff02::1]"),
        *("localhost", "localhost.", "LOCALHOST", socket.gethostname()),
    ]
    answers = run(session, TUNNEL, authorities=[f"{host}:443" for host in hosts])
    refused = {host: answer.startswith("HTTP/1.1 403 ") for host, answer in zip(hosts, answers, strict=True)}
    assert all(refused.values()), {
        host: answer for host, answer in zip(hosts, answers, strict=True) if not refused[host]
    }


def test_only_the_ports_that_are_set_are_reached(session: Session) -> None:
    (answer,) = run(session, TUNNEL, authorities=["example.org:22"])
    assert answer.startswith("HTTP/1.1 403 port 22 is not allowed\r\n")


def test_there_is_no_way_around_the_proxy(letting_out: Server, session: Session) -> None:
    port = urlsplit(letting_out.url).port
    addresses = [(address, port) for address in addresses_here()] + [("1.1.1.1", 53), ("169.254.169.254", 80)]
    answers = run(session, DIRECT, addresses=addresses)
    tcp, udp = answers[: len(addresses)], answers[len(addresses) :]
    loopback = [ip_address(address).is_loopback for address, _ in addresses]
    assert [answer for answer, own in zip(tcp, loopback, strict=True) if not own] == ["ENETUNREACH"] * loopback.count(
        False
    )
    assert set(tcp) == {"ENETUNREACH", "ECONNREFUSED"}  # the sandbox's own loopback is another than the host's
    assert [answer for answer, own in zip(udp, loopback, strict=True) if not own] == ["ENETUNREACH"] * loopback.count(
        False
    )


def test_a_session_without_egress_has_no_proxy(letting_out: Server) -> None:
    closed = letting_out.session("ada")
    try:
        names = closed.value(
            "builtins.eval", "sorted(name for name in __import__('os').environ if 'proxy' in name.lower())"
        )
        assert names == []
        assert closed.value("os.listdir", "/run/kodou") == ["s"]
        assert run(closed, DIRECT, addresses=[("1.1.1.1", 443)])[0] == "ENETUNREACH"
    finally:
        closed.close()


def test_another_tenants_way_out_is_out_of_reach(letting_out: Server, session: Session) -> None:
    other = opened(letting_out, "eve")
    try:
        port = urlsplit(other.value("os.environ.get", "HTTP_PROXY")).port
        assert run(session, "import os; result = [p for p, _, n in os.walk('/run') if 'egress' in n]") == ["/run/kodou"]
        former = urlsplit(session.value("os.environ.get", "HTTP_PROXY")).port
        if former != port:  # each has a loopback of its own
            assert run(session, DIRECT, addresses=[("127.0.0.1", port)])[0] == "ECONNREFUSED"
    finally:
        other.close()


def test_the_way_out_is_back_after_a_deadline_and_after_its_process_was_killed(letting_out: Server) -> None:
    own = opened(letting_out)
    try:
        proxy = own.value("os.environ.get", "HTTP_PROXY")
        reply = own.call("time.sleep", 60, timeout=200)
        assert (reply["code"], reply["restarted"]) == ("timeout", True)
        assert own.value("os.environ.get", "HTTP_PROXY") == proxy
        assert run(own, TUNNEL, authorities=["localhost:443"])[0].startswith("HTTP/1.1 403 ")
        time.sleep(1.0)  # sooner than this it is not started anew
        own.call("os.kill", -1, int(signal.SIGKILL))
        assert run(own, TUNNEL, authorities=["localhost:443"])[0].startswith("HTTP/1.1 403 ")
    finally:
        own.close()


def test_what_the_session_sets_counts_for_its_variables(letting_out: Server) -> None:
    own = opened(letting_out, env={"NO_PROXY": "inside.example", "https_proxy": ""})
    try:
        assert own.value("os.environ.get", "NO_PROXY") == "inside.example"
        assert own.value("os.environ.get", "https_proxy") == ""
        assert own.value("os.environ.get", "no_proxy") == "localhost,127.0.0.1"
        assert own.value("os.environ.get", "HTTPS_PROXY").startswith("http://127.0.0.1:")
    finally:
        own.close()


def proxy_process(server: Server) -> int:
    """The server's one egress proxy."""
    (pid,) = (pid for pid in children(server.process.pid) if b"orchestrator.egress" in command(pid))
    return pid


def children(parent: int) -> Iterator[int]:
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):  # it has ended
            pid, _, rest = stat.read_text().partition(" ")
            if int(rest.rpartition(")")[2].split()[1]) == parent:
                yield int(pid)


def command(pid: int) -> bytes:
    return Path(f"/proc/{pid}/cmdline").read_bytes()


def test_the_proxys_process_has_no_rights(letting_out: Server, session: Session) -> None:
    status = dict(
        line.split(":\t", 1)
        for line in Path(f"/proc/{proxy_process(letting_out)}/status").read_text().splitlines()
        if ":\t" in line
    )
    assert status["NoNewPrivs"] == "1"
    assert {int(status[name], 16) for name in ("CapInh", "CapPrm", "CapEff", "CapAmb")} == {0}
    if os.geteuid() == 0:
        assert "0" not in status["Uid"].split() + status["Gid"].split()
        assert status["Groups"].strip() == ""


def test_a_proxy_that_ends_is_started_anew(letting_out: Server, session: Session) -> None:
    former = proxy_process(letting_out)
    os.kill(former, signal.SIGKILL)
    assert eventually(lambda: run(session, TUNNEL, authorities=["localhost:443"])[0].startswith("HTTP/1.1 403 "))
    assert proxy_process(letting_out) != former


def eventually(true: Callable[[], bool]) -> bool:
    until = time.monotonic() + PATIENCE_S
    while time.monotonic() < until:
        with contextlib.suppress(AssertionError, ValueError):
            if true():
                return True
        time.sleep(0.1)
    return False


def test_refusals_are_logged_by_host_and_port_and_not_without_bound(letting_out: Server) -> None:
    own = opened(letting_out)
    try:
        run(own, FETCH, url="http://10.1.2.3/secret?token=x")
        run(own, TUNNEL, authorities=["10.1.2.4:443"] * 200)
        assert eventually(lambda: "10.1.2.3" in letting_out.log.read_text())
    finally:
        own.close()
    lines = [json.loads(line) for line in letting_out.log.read_text().splitlines() if '"egress_refused"' in line]
    (mine,) = [line for line in lines if line["host"] == "10.1.2.3"]
    assert (mine["port"], mine["reason"]) == ("80", "not a public address")
    assert not any("secret" in json.dumps(line) for line in lines)
    assert 0 < len([line for line in lines if line["sandbox"] == mine["sandbox"]]) < 50


def test_a_server_that_restarts_lets_its_sessions_out_again_unless_it_is_no_longer_allowed(letting_out: Server) -> None:
    with running(letting_out.backend, KODOU_ALLOW_EGRESS="1", KODOU_KEEP_SESSIONS="1") as server:
        own = opened(server)
        try:
            mark = own.value("os.getpid")
            former = proxy_process(server)
            again(server)
            assert run(own, TUNNEL, authorities=["localhost:443"])[0].startswith("HTTP/1.1 403 ")
            assert eventually(lambda: not Path(f"/proc/{former}").exists())  # it ends with its server
            again(server, KODOU_ALLOW_EGRESS="0")
            assert run(own, TUNNEL, authorities=["localhost:443"]) == [""]
            assert own.value("os.getpid") == mark
        finally:
            own.close()


@pytest.mark.parametrize("scopes", ["setup,call", "setup,call,admin"])
def test_egress_takes_a_scope_of_the_key_too(letting_out: Server, scopes: str) -> None:
    reply = letting_out.client("mallory", scopes=scopes).post(SETUP, json={"network": "egress"})
    assert (reply.status_code, reply.json()["code"]) == (403, "forbidden")
    assert "'egress'" in reply.json()["detail"]


@pytest.mark.index
def test_the_package_index_is_reached_over_tls(session: Session) -> None:
    authorities = ca_bundle(Settings())
    context = ssl.create_default_context(cafile=authorities)
    try:
        httpx.head(INDEX_URL, verify=context, trust_env=False)
    except httpx.TransportError as exc:
        if engine_required():
            raise
        pytest.skip(f"no package index: {exc}")
    code = """
import ssl, urllib.request
with urllib.request.urlopen(url, timeout=30, context=ssl.create_default_context(cadata=authorities)) as reply:
    result = reply.status, b"six-" in reply.read()
"""
    pem = "" if authorities is None else authorities.read_text()
    assert run(session, code, url=INDEX_URL, authorities=pem) == [200, True]
