"""What runs inside a sandbox and takes calls. Standard library only; Python 3.8 to 3.14."""

__version__ = "0.1.0"
