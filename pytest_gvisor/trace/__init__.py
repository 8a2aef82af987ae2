"""The sentry's events of a traced run, read while they arrive and folded into a `Trace`."""
