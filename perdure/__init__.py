"""Perdure: a server for stateful agents whose every token is on record."""

__version__ = "0.1.0"
