"""What pytest shows of gVisor runs."""
