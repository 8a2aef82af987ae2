"""Programs that run inside a sandbox, untrusted: standard library only, apart from worker."""
