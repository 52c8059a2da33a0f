"""The inference core: everything between validated messages and generated tokens.

It knows no web framework, database, environment variable or global state, and only `inference.engine` knows MLX.
"""
