"""The table of ensembles, and the figures that it alone has."""
