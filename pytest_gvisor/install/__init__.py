"""Installation of runsc: a release of gVisor's, or a build of its Go module."""
