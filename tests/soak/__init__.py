"""The soak: the real daemon on a node that never rests, for hours, and what it keeps and how fast it answers meanwhile."""
