"""Stage score: boxes and maps that other code made, against annotations."""
