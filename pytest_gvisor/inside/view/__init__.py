"""The view of a test inside: the files, variables and users of the host that a sandbox is shown."""
