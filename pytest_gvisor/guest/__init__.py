"""Programs that run inside a sandbox, untrusted: the standard library alone, apart from worker."""
