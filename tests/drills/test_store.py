"""Fault 8: another process holds the store. A while is waited out; longer is told, and nothing is lost."""

import sqlite3
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager

from orchestrator.store.sql import BUSY_TIMEOUT_MS
from tests.drills.at_rest import at_rest, back_to
from tests.drills.crowds import at_once
from tests.servers import Server

SETUP = "/environment/python/setup"
A_WHILE_S = 1.0
CROWD = 20
SLACK_S = 60.0  # a loaded machine's; a crowd that waited in a queue would take `CROWD` times the timeout


@contextmanager
def locked(server: Server) -> Iterator[sqlite3.Connection]:
    """Nobody else can write; WAL lets others read. Left, it is rolled back."""
    path = server.data_dir / "kodou.sqlite"
    with closing(sqlite3.connect(path, isolation_level=None, check_same_thread=False)) as connection:
        assert connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)
        connection.execute("BEGIN EXCLUSIVE")
        yield connection


def test_a_store_that_is_held_for_a_while_is_waited_for(server: Server) -> None:
    before = at_rest(server)
    live = server.session("bob")
    server.key("ada")
    with locked(server) as connection:
        release = threading.Timer(A_WHILE_S, connection.rollback)
        release.start()
        try:
            assert live.value("math.sqrt", 4) == 2.0
            session = server.session()
        finally:
            release.join()
    assert session.value("math.sqrt", 9) == 3.0
    for each in (session, live):
        each.close()
    back_to(before, server)


def test_a_store_that_is_held_for_longer_is_told_to_all_who_wait_and_nothing_is_lost(server: Server) -> None:
    before = at_rest(server)
    live, closing_one = server.session("bob"), server.session("bob")
    client = server.client()
    with locked(server):
        began = time.monotonic()
        replies = at_once(
            CROWD,
            lambda number: (
                client.post(SETUP, json={})
                if number
                else closing_one.client.request("DELETE", "/session", json={"sessionid": closing_one.id})
            ),
        )
        took_s = time.monotonic() - began
        # Neither calls nor reads need what is locked.
        assert live.value("math.sqrt", 4) == 2.0
        assert client.get("/session").json()["sessions"] == []
        assert client.get("/environment/python").status_code == 200
    for reply in replies:
        assert (reply.status_code, reply.json()["code"]) == (503, "store_busy")
        assert int(reply.headers["Retry-After"]) > 0
    assert took_s < BUSY_TIMEOUT_MS / 1000 + SLACK_S
    assert closing_one.post("math.sqrt", 4).status_code == 404
    session = server.session()
    assert session.value("math.sqrt", 9) == 3.0
    assert live.value("math.sqrt", 16) == 4.0
    for each in (session, live):
        each.close()
    back_to(before, server)  # what could not be written is tried again by the reaper
