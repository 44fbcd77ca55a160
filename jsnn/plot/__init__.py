"""Every figure, and the report of a run. Nothing else in the library draws."""
