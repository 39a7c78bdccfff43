"""What a call came to, in the forms that a reply may have."""
