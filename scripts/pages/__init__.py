"""The documentation: its commands, its pictures, its site."""
