"""Stage draw: boxes drawn on images."""
