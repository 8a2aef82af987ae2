"""Tests that run inside gVisor themselves: the host drives, a pytest in the sandbox runs them."""
