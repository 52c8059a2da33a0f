"""The tables. What a client or a model wrote is in `Spoken`, `Memory` and `Difference` alone; all others hold figures,
ids, hashes and names of ours. A verdict may have the name of a tool.

`owner` is the id of the key a request came with, "" for everyone without one. Rows are looked up by (owner, id).
"""

from __future__ import annotations

from typing import ClassVar

from django.db import models
from django.db.models import Q


class Session(models.Model):
    """A conversation with all its branches. `named`: its id is the digest of what its client calls it."""

    id = models.CharField(primary_key=True, max_length=64)
    owner = models.CharField(max_length=64, blank=True, default="")
    named = models.BooleanField(default=False)
    began_at = models.DateTimeField()
    touched_at = models.DateTimeField(db_index=True)


class Turn(models.Model):
    """One request and its answers, finished. See `inference.conversation.turn_chain.Turn` for the meanings.

    Rows are numbered as they were finished; `hashes` and `ends` hold points of 32 bytes each, one behind the other.
    """

    public_id = models.CharField(unique=True, max_length=32)
    session = models.ForeignKey(Session, on_delete=models.DB_CASCADE, related_name="turns")
    owner = models.CharField(max_length=64, blank=True, default="")
    line = models.CharField(max_length=32)
    parent = models.CharField(max_length=32, blank=True, default="", db_index=True)
    beside = models.CharField(max_length=32, blank=True, default="")
    edge = models.CharField(max_length=16)
    known_messages = models.PositiveIntegerField()
    messages = models.PositiveIntegerField()
    hashes = models.BinaryField()
    ends = models.BinaryField()
    head = models.BinaryField()
    tools = models.BinaryField()
    at = models.DateTimeField(db_index=True)


class Generation(models.Model):
    """One request that reached the scheduler, however it ended. Times are in seconds.

    `outcome` is a finish reason, the code of an error, or `cancelled`. Where the prompt left what was stored for its
    session, `diverged_path` names the field of the request that held the first other token, which is `diverged_token`,
    and `diverged_rule` the volatile rule that had found the text there. `session` is that of one that became no turn.
    """

    id = models.CharField(primary_key=True, max_length=32)
    request_id = models.CharField(max_length=128)
    turn = models.ForeignKey(
        Turn, to_field="public_id", on_delete=models.DB_CASCADE, related_name="generations", null=True
    )
    session = models.CharField(max_length=64, blank=True, default="")
    owner = models.CharField(max_length=64, blank=True, default="")
    model = models.CharField(max_length=256)
    outcome = models.CharField(max_length=64)
    edge = models.CharField(max_length=16, blank=True, default="")
    verdict = models.CharField(max_length=128, blank=True, default="")
    diverged_token = models.PositiveIntegerField(null=True)
    diverged_message = models.PositiveIntegerField(null=True)
    diverged_path = models.CharField(max_length=256, blank=True, default="")
    diverged_rule = models.CharField(max_length=64, blank=True, default="")
    prompt_tokens = models.PositiveIntegerField()
    cached_tokens = models.PositiveIntegerField(default=0)
    prefilled_tokens = models.PositiveIntegerField(default=0)
    lost_tokens = models.PositiveIntegerField(default=0)
    completion_tokens = models.PositiveIntegerField(default=0)
    reasoning_tokens = models.PositiveIntegerField(default=0)
    malformed_calls = models.PositiveIntegerField(default=0)
    queue_s = models.FloatField(default=0.0)
    prefill_s = models.FloatField(default=0.0)
    decode_s = models.FloatField(default=0.0)
    total_s = models.FloatField(default=0.0)
    began_at = models.DateTimeField(db_index=True)

    class Meta:
        """Those without a turn are found by their session; they are few, and only they are in the index."""

        indexes: ClassVar = [models.Index(fields=["session"], name="generation_alone", condition=Q(turn=None))]


class Spoken(models.Model):
    """What the model said as one answer, to be found at the place where an echo of it is looked for. Content.

    `body` is written by `mlxd.ledger.spoken_bytes` and has `size` bytes. `turn` is missing for an answer that became no
    turn: one of several whose request was given up. It has a `session` then.
    """

    place = models.BinaryField(db_index=True)
    session = models.CharField(max_length=64, blank=True, default="")
    turn = models.ForeignKey(Turn, to_field="public_id", on_delete=models.DB_CASCADE, related_name="spoken", null=True)
    body = models.BinaryField()
    size = models.PositiveIntegerField()
    at = models.DateTimeField()

    class Meta:
        """Retention reads ages and sizes without the rows."""

        indexes: ClassVar = [
            models.Index(fields=["at", "size"], name="spoken_at_size"),
            models.Index(fields=["session"], name="spoken_alone", condition=Q(turn=None)),
        ]


class Memory(models.Model):
    """What the model has read up to a turn, as far as it is not what the client sent. Content.

    `body` is written by `mlxd.ledger.memory_bytes` and has `size` bytes.
    """

    turn = models.OneToOneField(
        Turn, to_field="public_id", primary_key=True, on_delete=models.DB_CASCADE, related_name="memory"
    )
    body = models.BinaryField()
    size = models.PositiveIntegerField()
    at = models.DateTimeField()

    class Meta:
        """Retention reads ages and sizes without the rows."""

        indexes: ClassVar = [models.Index(fields=["at", "size"], name="memory_at_size")]


class Difference(models.Model):
    """What stood where a prompt left its session. Content: a few dozen characters each, gone with their generation.

    `before` is common to both, then the prompt has `sent` and the session had `stored`.
    """

    generation = models.OneToOneField(
        Generation, primary_key=True, on_delete=models.DB_CASCADE, related_name="difference"
    )
    before = models.TextField()
    sent = models.TextField()
    stored = models.TextField()


class Key(models.Model):
    """A named key, without the key: `digest` is its SHA-256, `id` the first 8 hex digits of that. `scopes` are words
    with commas between them, `allowed_models` JSON. The counts are what it was used for since it was made."""

    id = models.CharField(primary_key=True, max_length=8)
    digest = models.BinaryField(max_length=32, unique=True)
    name = models.CharField(unique=True, max_length=64)
    scopes = models.CharField(max_length=128)
    allowed_models = models.TextField(default="[]")
    requests_per_minute = models.PositiveIntegerField(default=0)
    created_at = models.DateTimeField()
    expires_at = models.DateTimeField(null=True)
    last_used_at = models.DateTimeField(null=True)
    requests = models.PositiveBigIntegerField(default=0)
    prompt_tokens = models.PositiveBigIntegerField(default=0)
    cached_tokens = models.PositiveBigIntegerField(default=0)
    completion_tokens = models.PositiveBigIntegerField(default=0)


class BrowserSession(models.Model):
    """A browser that an admin opened: `digest` is the SHA-256 of what its cookie holds."""

    digest = models.BinaryField(primary_key=True, max_length=32)
    created_at = models.DateTimeField()
    seen_at = models.DateTimeField()


class Audit(models.Model):
    """A warm request computed once more from nothing. See `inference.prefix_store.AuditResult` for the meanings.

    `kinds` has commas between them. `verdict` is `same` or `quarantined`. A distance that is no number is NULL.
    """

    at = models.DateTimeField()
    model = models.CharField(max_length=256)
    kinds = models.CharField(max_length=64, blank=True, default="")
    prompt_tokens = models.PositiveIntegerField()
    depth_tokens = models.PositiveIntegerField()
    cold_from = models.PositiveIntegerField()
    steps = models.PositiveIntegerField()
    diverged_step = models.PositiveIntegerField(null=True)
    distance = models.FloatField(null=True)
    kv_distance = models.FloatField(null=True)
    tolerance = models.FloatField()
    verdict = models.CharField(max_length=16)
    quarantined_from = models.PositiveIntegerField(null=True)
    quarantined_blocks = models.PositiveIntegerField(default=0)
    took_s = models.FloatField()
