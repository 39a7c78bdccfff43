"""Jupyter Kernel Gateway, driven: a session is a kernel, asked over its websocket with TCP's delays off."""

import json
import os
import socket
import subprocess
import sys
import time
import urllib.request
import uuid
from pathlib import Path

import websocket
from driving import CODE, Peer, serve

START_TIMEOUT_S = 120
NO_DELAY = ((socket.IPPROTO_TCP, socket.TCP_NODELAY, 1),)


class Kernel:
    def __init__(self, base: str) -> None:
        self._base = base
        request = urllib.request.Request(f"http://{base}/api/kernels", data=b"{}", method="POST")
        with urllib.request.urlopen(request, timeout=START_TIMEOUT_S) as reply:
            self.id = json.load(reply)["id"]
        url = f"ws://{base}/api/kernels/{self.id}/channels"
        self._socket = websocket.create_connection(url, sockopt=NO_DELAY, timeout=START_TIMEOUT_S)

    def run(self, code: str) -> str:
        """The value of the code's last expression, once the kernel says that it is done."""
        message = uuid.uuid4().hex
        self._socket.send(json.dumps(_execute(message, code)))
        value, replied = None, False
        while value is None or not replied:
            # Or the kernel's messages, which come as several small segments, wait 40 ms for an acknowledgement.
            self._socket.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_QUICKACK, 1)
            reply = json.loads(self._socket.recv())
            if reply["parent_header"].get("msg_id") != message:
                continue
            kind = reply["msg_type"]
            if kind == "error":
                raise RuntimeError(reply["content"]["evalue"])
            if kind == "execute_result":
                value = reply["content"]["data"]["text/plain"]
            replied = replied or kind == "execute_reply"
        return value

    def end(self) -> None:
        self._socket.close()
        request = urllib.request.Request(f"http://{self._base}/api/kernels/{self.id}", method="DELETE")
        urllib.request.urlopen(request, timeout=START_TIMEOUT_S).close()


def _execute(message: str, code: str) -> dict[str, object]:
    header = {"msg_id": message, "username": "", "session": "bench", "msg_type": "execute_request", "version": "5.3"}
    content = {"code": code, "silent": False, "store_history": False, "user_expressions": {}, "allow_stdin": False}
    return {"header": header, "parent_header": {}, "metadata": {}, "channel": "shell", "content": content}


class Gateway(Peer):
    def __init__(self) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        self._base = f"127.0.0.1:{port}"
        command = [str(Path(sys.executable).parent / "jupyter"), "kernelgateway"]
        options = ["--KernelGatewayApp.ip=127.0.0.1", f"--KernelGatewayApp.port={port}", "--log-level=ERROR"]
        path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        self._process = subprocess.Popen([*command, *options], env=os.environ | {"PATH": path})
        self._wait()

    def _wait(self) -> None:
        deadline = time.monotonic() + START_TIMEOUT_S
        while True:
            try:
                urllib.request.urlopen(f"http://{self._base}/api", timeout=5).close()
                return
            except OSError:
                if self._process.poll() is not None or time.monotonic() > deadline:
                    self.close()
                    raise
            time.sleep(0.1)

    def start(self) -> Kernel:
        kernel = Kernel(self._base)
        kernel.run(CODE)
        return kernel

    def call(self, session: Kernel) -> float:
        return float(session.run("float(numpy.array([2, 4, 6]).sum())"))

    def pid(self, session: Kernel) -> int:
        return int(session.run("import os; os.getpid()"))

    def end(self, session: Kernel) -> None:
        session.end()

    def close(self) -> None:
        self._process.terminate()
        self._process.wait(60)


if __name__ == "__main__":
    serve(Gateway)
