"""The command line: one module a subcommand, put together in `main`."""
