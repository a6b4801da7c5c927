"""Stage inspect: pictures of what a network looks for."""
