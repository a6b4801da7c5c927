"""Stage export: boxes as the files that a tool opens."""
