"""Watching a run: what happens in it, and who is told."""
