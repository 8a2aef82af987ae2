"""Getting runsc, for `pytest-gvisor install`: a release of gVisor's, or a build of its module."""
