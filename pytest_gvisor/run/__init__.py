"""One run of runsc, from a request to its verdict."""
