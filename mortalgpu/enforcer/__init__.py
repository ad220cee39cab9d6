"""Whom to stop: decided purely, carried out with care, and told to everybody concerned."""
