"""The table of deep compression, and the figures that it alone has."""
