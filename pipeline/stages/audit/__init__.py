"""Stage audit: tests of whether maps can be trusted."""
