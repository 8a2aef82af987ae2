"""The report on tests and platforms: its data, its formats, and pytest's summary."""
