"""Programs that run beside pytest, with ``python -I -S``: the standard library alone."""
