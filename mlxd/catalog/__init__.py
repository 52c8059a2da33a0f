"""Models on this machine: where they are, what they are called, and how one gets here.

Finding is by name only: nothing in here loads weights or imports MLX.
"""

from mlxd.catalog.allowed import available, find_allowed
from mlxd.catalog.download import download
from mlxd.catalog.local import LocalModel, find_local, local_models
from mlxd.catalog.named import named_models

__all__ = ["LocalModel", "available", "download", "find_allowed", "find_local", "local_models", "named_models"]
