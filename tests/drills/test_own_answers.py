"""No call gets another's answer, whatever ends under it. `scripts/drills/own-answers` goes on for longer."""

from tests.drills.answers import stress
from tests.drills.at_rest import at_rest, back_to
from tests.servers import Server

SESSIONS = 3
SECONDS = 4.0
LEAST = 30  # of each client's calls, so that each kind is among them on a slow machine too
FORESEEN = {"value", "left", "200 timeout", "200 worker_died", "503 sandbox_lost"}


def test_every_reply_is_the_call_s_own_while_workers_die_and_calls_run_out_of_time(server: Server) -> None:
    before = at_rest(server)
    answered = stress(server, sessions=SESSIONS, seconds=SECONDS, seed=1, least=LEAST)
    assert answered.wrong == []
    assert answered.outcomes.keys() <= FORESEEN
    assert {"value", "200 timeout", "200 worker_died"} <= answered.outcomes.keys(), answered.outcomes
    back_to(before, server)
