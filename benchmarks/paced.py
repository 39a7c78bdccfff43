"""Clients that each send at times set beforehand: what a server does under load, not its clients.

A request's time counts from when it was due: a server that stalls is charged for what could not be sent meanwhile.
"""

import heapq
import selectors
import time
from typing import NamedTuple

from benchmarks.load import Client

_LAST_S = 30.0  # for replies that are still missing in the end


class Sample(NamedTuple):
    due_s: float  # since the load began
    took_s: float  # from then on
    answered_s: float  # from when it was sent, which is later where the clients themselves cannot keep up
    status: int  # 0: the connection ended instead of a reply


def paced(port: int, requests: list[bytes], per_s: float, duration_s: float) -> list[Sample]:
    """Send `requests` over and over, one connection each, together `per_s` a second; infinity: as fast as replies come."""
    every_s = len(requests) / per_s
    clients = [Client(port, request) for request in requests]
    due_s = [place * every_s / len(requests) for place in range(len(requests))]
    idle = [(due, place) for place, due in enumerate(due_s)]  # a heap: when due, and who
    samples: list[Sample] = []
    with selectors.DefaultSelector() as selector:
        for place, client in enumerate(clients):
            selector.register(client.socket, selectors.EVENT_READ, place)
        began = time.perf_counter()
        try:
            while True:
                now = time.perf_counter() - began
                while idle and idle[0][0] <= now < duration_s:
                    clients[heapq.heappop(idle)[1]].send()
                if now >= duration_s and (len(idle) == len(clients) or now >= duration_s + _LAST_S):
                    return samples
                until = idle[0][0] if idle and now < duration_s else duration_s + _LAST_S
                for key, _ in selector.select(max(0.0, min(until - now, 1.0))):
                    place = key.data
                    client = clients[place]
                    reply = client.reply()
                    if reply is None:
                        continue
                    ended = time.perf_counter()
                    due, took_s = due_s[place], ended - began - due_s[place]
                    samples.append(Sample(due, took_s, ended - client.began, int(reply[9:12] or 0)))
                    if not reply:
                        selector.unregister(client.socket)
                        client.socket.close()
                        clients[place] = Client(port, client.request)
                        selector.register(clients[place].socket, selectors.EVENT_READ, place)
                    due_s[place] = due + every_s if every_s else ended - began
                    heapq.heappush(idle, (due_s[place], place))
        finally:
            for client in clients:
                client.socket.close()
