"""The figures of the table on a keyboard's language model."""
