"""The stock client: what `protoc` makes of the shipped .proto file, and `urllib`; nothing of ours."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.servers import Server

ROOT = Path(__file__).resolve().parents[2]
PROTO = ROOT / "proto" / "kodou" / "v1"

CLIENT = Path(__file__).with_name("stock_client.py")


@pytest.fixture(scope="module")
def stock(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with the client, and the code that it imports."""
    directory = tmp_path_factory.mktemp("stock")
    command = [
        sys.executable,
        "-m",
        "grpc_tools.protoc",
        f"-I{PROTO}",
        f"--python_out={directory}",
        "kodou.proto",
    ]
    subprocess.run(command, check=True, cwd=directory)
    shutil.copy(CLIENT, directory)
    return directory


@pytest.mark.index
def test_a_stock_client_calls_with_every_kind_of_value(server: Server, stock: Path) -> None:
    session = server.session("protobuf", dependencies=["numpy"])
    token = server.key("protobuf")["api_id"]
    command = [sys.executable, stock / CLIENT.name, server.url, token, session.id]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stdout) == (0, "all of it\n"), done.stderr
