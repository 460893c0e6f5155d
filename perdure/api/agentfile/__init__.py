"""Agent files (`.af`) between their JSON and our values, in the current format and the one before it."""
