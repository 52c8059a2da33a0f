"""mlxd: serves local MLX models to coding agents; the service around the `inference` core."""

__version__ = "0.1.0.dev0"
