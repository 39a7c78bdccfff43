"""kodou's server: environments, sessions and calls behind HTTP."""

__version__ = "0.1.0"
