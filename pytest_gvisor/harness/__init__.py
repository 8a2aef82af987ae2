"""Workloads under gVisor from any Python, without pytest."""
