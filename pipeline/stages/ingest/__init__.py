"""Stage ingest: boxes that were corrected in an annotation tool."""
