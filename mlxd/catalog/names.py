"""What a repository, a revision and a file of one may be called: the same rule wherever such a name comes in.

Nothing that could lead anywhere is a name: no separator, no `..`, nothing beyond ASCII, so that no file system can take
two of them for one but by their case.
"""

from __future__ import annotations

import re
from typing import Final

_PART: Final = r"[A-Za-z0-9](?:[A-Za-z0-9_-]|\.(?!\.)){0,95}"
PLAIN_ID: Final = re.compile(rf"{_PART}(/{_PART})?")
"""A model of the cache or of a root."""
REPO_ID: Final = re.compile(rf"(?!.*--){_PART}/{_PART}")
"""`--` stands for the slash in the cache, where `a--b/c` and `a/b--c` would be one directory."""
REVISION: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")
COMMIT: Final = re.compile(r"[0-9a-f]{40}")
DIGESTS: Final = {"sha1": COMMIT, "sha256": re.compile(r"[0-9a-f]{64}")}
FILE: Final = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9_-]|\.(?!\.)){0,199}")
