"""What runs inside a builder sandbox: installs locked packages. Standard library only; Python 3.8 to 3.14."""
