"""What stands beside kodou, each in a virtual environment of its own; the other modules here run in those."""
