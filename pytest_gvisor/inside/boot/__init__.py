"""The start of a pytest inside: fresh, ahead of the collection, or as a copy."""
