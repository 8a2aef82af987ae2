"""The way back of files and coverage from a sandbox to the host."""
