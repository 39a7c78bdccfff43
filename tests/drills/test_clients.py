"""Fault 11: clients that go away, with a reset, while what they asked for is under way."""

from collections import Counter

from tests.drills.at_rest import at_rest, back_to
from tests.drills.crowds import START_S, at_once, call_request, leave, metric, request, until
from tests.made_index import MadeIndex
from tests.servers import Server

SETUP = "/environment/python/setup"
BUILT = 'kodou_builds_total{outcome="ready"}'
LEAVERS = 100
AT_ONCE = 20
# Leaves a mark in the session, so that a call that ran twice is told from one that ran once.
MARK = "__import__('time').sleep(0.01), open('/tmp/marks', 'a').write({mark!r})"


def test_a_hundred_who_leave_their_calls_disturb_nobody_and_no_call_runs_twice(server: Server) -> None:
    session, other = server.session(), server.session("bob")
    session.value("eval", MARK.format(mark="first "))
    other.value("math.sqrt", 4)
    before = at_rest(server)

    def work(number: int) -> None:
        if number == AT_ONCE:
            for count in range(50):
                assert other.value("operator.add", count, 1) == count + 1
            return
        for each in range(LEAVERS // AT_ONCE):
            mark = f"{number}-{each} "
            leave(server, call_request(session, "eval", MARK.format(mark=mark)), after_s=0.002 * (number % 5))

    at_once(AT_ONCE + 1, work)
    # Its turn comes after all of theirs.
    until(lambda: session.post("eval", MARK.format(mark="last ")).status_code == 200, "a turn in the session")
    marks = Counter(session.value("eval", "open('/tmp/marks').read().split()"))
    assert {"first", "last"} <= marks.keys()
    assert max(marks.values()) == 1
    back_to(before, server)
    for each in (session, other):
        each.close()


def test_a_build_that_all_have_left_is_finished_kept_and_opens_no_session(
    server: Server, index: MadeIndex, package: str
) -> None:
    before, built = at_rest(server), metric(server, BUILT)
    client = server.client()
    authorization = str(client.headers["Authorization"])
    index.hold()

    def work(number: int) -> None:
        for _ in range(LEAVERS // AT_ONCE):
            leave(server, request("POST", SETUP, authorization, {"dependencies": [package]}), after_s=0.01 * number)

    at_once(AT_ONCE, work)
    assert index.asked.wait(START_S)
    index.release()
    until(lambda: metric(server, BUILT) == built + 1, "the build's end")
    until(lambda: not client.get("/session").json()["sessions"], "no session stays")
    back_to(before, server)
    session = server.session(dependencies=[package])
    assert session.setup["environment"]["reused"] is True
    assert session.value(f"{package}.main") == 5
    assert index.given_of(package) == 1
    session.close()


def test_streams_and_polls_that_are_left_leave_nothing(server: Server, index: MadeIndex, package: str) -> None:
    before, built = at_rest(server), metric(server, BUILT)
    client = server.client()
    asked = request("POST", SETUP, str(client.headers["Authorization"]), {"dependencies": [package]})
    streamed = asked.replace(b"\r\nHost:", b"\r\nAccept: text/event-stream\r\nHost:", 1)
    index.hold()
    at_once(AT_ONCE, lambda number: leave(server, streamed, after_s=0.01 * number))
    assert index.asked.wait(START_S)
    index.release()
    until(lambda: metric(server, BUILT) == built + 1, "the build's end")
    until(lambda: not client.get("/session").json()["sessions"], "no session stays")
    back_to(before, server)
