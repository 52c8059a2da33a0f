"""Tokens out to meaning: sans-I/O machines that take text as it comes and do not care how it was cut."""
