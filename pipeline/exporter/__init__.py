"""Exporters write boxes as the files that a tool opens; each module has a format."""
