"""Stage evaluate: boxes and maps against annotations."""
