"""Throw-away virtual machines over the live file system, in which gVisor's kvm platform works."""
