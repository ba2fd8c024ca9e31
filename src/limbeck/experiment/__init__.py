"""A recipe carried out: its sets, its teacher, its trainings, and their outcome."""
