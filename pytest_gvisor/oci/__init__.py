"""Bundles: ``config.json`` as typed data, its rules, mounts and root file systems."""
