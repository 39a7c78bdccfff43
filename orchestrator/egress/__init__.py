"""The ways out of sandboxes: HTTP proxies on Unix sockets, that pass on what their rules allow and nothing else.

Here is what they share (`heads`, `relay`, `upstream`, `proxy`) and the one for sessions with `"network": "egress"`, which
runs in a process of its own (`__main__`; `sandboxes/egress.py` starts it). Nothing here knows settings or the server.
"""
