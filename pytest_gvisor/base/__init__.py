"""The modules that all others use: errors, settings, trust in paths, text that is safe to show."""
