"""The program of a warm sandbox."""
