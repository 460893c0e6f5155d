"""Frozen values every other folder shares. Imports nothing of ours."""
