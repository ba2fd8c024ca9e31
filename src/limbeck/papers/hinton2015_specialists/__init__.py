"""The table of specialists, and the figures that it alone has."""
