"""Checks against a real GPU; skipped where there is none."""
