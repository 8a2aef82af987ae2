"""Images: reading them without a daemon, unpacking them, and keeping what was unpacked."""
