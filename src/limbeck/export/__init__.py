"""A trained network as files for others: its weights in their smallest form, and what they are of."""

from limbeck.export.sizes import exported_bytes, ideal_bytes
from limbeck.export.writing import CONFIG, WEIGHTS, stored, write_folder

__all__ = ["CONFIG", "WEIGHTS", "exported_bytes", "ideal_bytes", "stored", "write_folder"]
