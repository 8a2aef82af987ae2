"""Getting runsc from gVisor's release bucket. Only `pytest-gvisor install` does it."""
