"""The table of compressed networks that are retrained, and the figures that it alone has."""
