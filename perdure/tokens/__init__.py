"""Ids the model saw, never re-derived from text."""
