"""Python client of kodou."""
