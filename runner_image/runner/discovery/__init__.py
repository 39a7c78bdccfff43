"""What modules, classes and functions offer, found without running any of it."""
