"""What a check of `mlxd doctor` said, and that it fits its status."""

from mlxd.doctor import Status


def healthy(finding):
    assert finding.status is Status.OK, finding
    assert not finding.cure
    return finding.what


def ill(finding, status=Status.FAIL):
    assert finding.status is status, finding
    assert finding.cure
    return f"{finding.what}\n{finding.cure}"
