"""The runsc binary: its location, trust in it, its features and platforms."""
