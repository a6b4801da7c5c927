"""From boxes to the files that a tool opens: one format a file."""
