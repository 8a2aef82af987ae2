"""Warm sandboxes: many commands in one sandbox, served by a small program inside."""
