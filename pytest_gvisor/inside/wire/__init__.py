"""The messages of the pytest inside, each checked before it is used."""
