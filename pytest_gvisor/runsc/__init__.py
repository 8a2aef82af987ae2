"""Where runsc is, whether it may be trusted, and what it can do."""
