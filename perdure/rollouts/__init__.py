"""Rollouts: an agent tried many times at tasks, each time from a copy of its whole state, scored and exported."""
