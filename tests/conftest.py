"""What holds for every test."""

import os
import sys
from pathlib import Path

from hypothesis import HealthCheck, settings
from hypothesis.internal.conjecture import providers
from hypothesis.internal.constants_ast import Constants

# A law is about answers. Times are asserted where they are promised, not per example on a busy machine.
settings.register_profile("mlxd", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("mlxd")

if settings().derandomize:
    # Now and then Hypothesis draws a constant of whatever code of ours this process has imported by then. That depends
    # on the tests before and on every commit, and would make "the same examples each time" untrue.
    providers._get_local_constants = Constants

# Every client that is made reads some 150 certificates, which takes 35-60 ms, and there are thousands of clients. None
# of them speaks TLS here. A folder is read when a certificate is looked for, and not before.
os.environ.pop("SSL_CERT_FILE", None)
os.environ["SSL_CERT_DIR"] = str(Path(__file__).parent)


def pytest_runtest_setup() -> None:
    """What MLX draws without a key, the weights of a layer say, is not to depend on the tests before."""
    if (mx := sys.modules.get("mlx.core")) is not None:
        mx.random.seed(0)
