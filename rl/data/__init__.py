"""Data sets: files and hub names, read once, checked row by row, and kept on disk until a row is drawn."""
