"""Diagnosis: why a distillation helps or fails, on one's own teacher, student and data."""
