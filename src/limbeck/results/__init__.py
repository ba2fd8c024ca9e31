"""Finished runs: read back, measured, compared.  Reading a run needs nothing of running one."""
