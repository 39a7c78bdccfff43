"""Fault 13, a short version: `scripts/drills/churn` runs a thousand, and prints how the times drift."""

from tests.drills.at_rest import at_rest, back_to
from tests.drills.churn import churn
from tests.servers import Server

SESSIONS = 40
AT_A_TIME = 20


def test_sessions_that_come_and_go_leave_nothing(server: Server) -> None:
    churn(server, AT_A_TIME, AT_A_TIME)  # what a server keeps for the next request is there from now on
    before = at_rest(server)
    churned = churn(server, SESSIONS, AT_A_TIME)
    assert all(churned.create_s)
    back_to(before, server)
