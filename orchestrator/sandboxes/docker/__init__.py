"""Sandboxes and images of a Docker engine. `engine.py` alone talks to it, in threads; `options.py` is pure."""
