"""Many setups at once: all are served, and one owner's crowd does not keep another waiting for all of it."""

import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

# Where each takes longer, as many as wait for a turn several times over do as well.
SETUPS = {"bubblewrap": 50, "process": 50}
FEWER = 12


def test_a_burst_on_a_known_environment_is_served_and_keeps_nobody_waiting_for_all_of_it(server: Any) -> None:
    server.session("crowd").close()  # from here on it is known
    count = SETUPS.get(server.backend, FEWER)
    first = threading.Event()
    answered: list[int] = []

    def one(number: int) -> int:
        session = server.session("crowd")
        value = session.value("builtins.pow", number, 2)
        answered.append(number)
        first.set()
        session.close()
        return int(value)

    for owner in ("crowd", "somebody"):
        server.client(owner)
    with ThreadPoolExecutor(count) as threads:
        crowd = [threads.submit(one, number) for number in range(count)]
        assert first.wait(120)
        other = server.session("somebody")
        assert other.value("builtins.pow", 7, 2) == 49
        before = len(answered)
        assert [each.result(240) for each in crowd] == [number**2 for number in range(count)]
    other.close()
    assert before < count or count == FEWER  # most of so few start at once: nobody waits for long
