"""The table of sequence-level distillation, and the figures that it alone has."""
