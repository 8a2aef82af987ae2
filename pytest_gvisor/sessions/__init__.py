"""The folder of one pytest process, and the keeper that outlives it."""
