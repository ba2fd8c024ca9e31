"""The table of TinyBERT, and the figures that it alone has."""
