"""mgctl's exit codes. Imports nothing."""

DONE = 0
FAILED = 1
"""Refused, or failed."""
USAGE = 2
"""Wrong words."""
UNREACHABLE = 69
"""The daemon does not answer."""
INTERRUPTED = 130
