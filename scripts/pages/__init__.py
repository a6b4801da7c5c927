"""Tools for the documentation: its commands, its pictures, its site."""
