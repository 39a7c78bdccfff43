"""The engine apart: a small process holds it, and the process that serves HTTP asks for a closed set of verbs on a Unix
socket. What asks may have been taken over, so `service.py` gives it nothing but what kodou's own code would ask for."""
