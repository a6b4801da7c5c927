"""Stage picture: maps as pictures."""
