"""Workloads under gVisor from any Python: what works without pytest."""
