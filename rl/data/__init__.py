"""Data sets: files and hub names, read once, checked row by row, and kept on disk until a row is drawn."""

from lightning_cispo.rl.data.errors import DataError
from lightning_cispo.rl.data.overlap import Overlap, key_of
from lightning_cispo.rl.data.rows import Rows
from lightning_cispo.rl.data.sources import Sources, on_disk, open_sources

__all__ = ["DataError", "Overlap", "Rows", "Sources", "key_of", "on_disk", "open_sources"]
