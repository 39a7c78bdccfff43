"""What is measured. One module a subject; what a subject can be asked is in `interface.py`, and none can be asked all."""
