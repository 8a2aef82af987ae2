"""Tests that run inside gVisor: a pytest on the host drives a pytest in the sandbox."""
