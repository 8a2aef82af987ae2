"""Warm sandboxes: many commands in one sandbox, served by one small program inside it."""
