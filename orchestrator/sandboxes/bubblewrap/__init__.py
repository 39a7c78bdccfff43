"""Sandboxes of namespaces without an engine: the embedded default. `options.py` is pure; images are `directories`."""
