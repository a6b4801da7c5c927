"""Data sets: images, their classes and, where there are some, annotations."""
