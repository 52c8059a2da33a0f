"""What holds for every test."""

from hypothesis import HealthCheck, settings

# A law is about answers. Times are asserted where they are promised, not per example on a busy machine.
settings.register_profile("mlxd", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("mlxd")
