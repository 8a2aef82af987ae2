"""The program of a sandbox for tests: a pytest that the host leads."""
