"""The tables as they were first made."""

import django.db.models.deletion
from django.db import migrations, models


class Migration(migrations.Migration):

    initial = True

    dependencies = [
    ]

    operations = [
        migrations.CreateModel(
            name='Session',
            fields=[
                ('id', models.CharField(max_length=64, primary_key=True, serialize=False)),
                ('owner', models.CharField(blank=True, default='', max_length=64)),
                ('named', models.BooleanField(default=False)),
                ('began_at', models.DateTimeField()),
                ('touched_at', models.DateTimeField(db_index=True)),
            ],
        ),
        migrations.CreateModel(
            name='Turn',
            fields=[
                ('id', models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name='ID')),
                ('public_id', models.CharField(max_length=32, unique=True)),
                ('owner', models.CharField(blank=True, default='', max_length=64)),
                ('line', models.CharField(max_length=32)),
                ('parent', models.CharField(blank=True, db_index=True, default='', max_length=32)),
                ('beside', models.CharField(blank=True, default='', max_length=32)),
                ('edge', models.CharField(max_length=16)),
                ('known_messages', models.PositiveIntegerField()),
                ('messages', models.PositiveIntegerField()),
                ('hashes', models.BinaryField()),
                ('ends', models.BinaryField()),
                ('head', models.BinaryField()),
                ('tools', models.BinaryField()),
                ('at', models.DateTimeField(db_index=True)),
                ('session', models.ForeignKey(on_delete=django.db.models.deletion.DB_CASCADE, related_name='turns', to='ledger.session')),
            ],
        ),
        migrations.CreateModel(
            name='Generation',
            fields=[
                ('id', models.CharField(max_length=32, primary_key=True, serialize=False)),
                ('request_id', models.CharField(max_length=128)),
                ('owner', models.CharField(blank=True, default='', max_length=64)),
                ('model', models.CharField(max_length=256)),
                ('outcome', models.CharField(max_length=64)),
                ('edge', models.CharField(blank=True, default='', max_length=16)),
                ('verdict', models.CharField(blank=True, default='', max_length=128)),
                ('diverged_token', models.PositiveIntegerField(null=True)),
                ('diverged_message', models.PositiveIntegerField(null=True)),
                ('diverged_path', models.CharField(blank=True, default='', max_length=256)),
                ('prompt_tokens', models.PositiveIntegerField()),
                ('cached_tokens', models.PositiveIntegerField(default=0)),
                ('prefilled_tokens', models.PositiveIntegerField(default=0)),
                ('lost_tokens', models.PositiveIntegerField(default=0)),
                ('completion_tokens', models.PositiveIntegerField(default=0)),
                ('reasoning_tokens', models.PositiveIntegerField(default=0)),
                ('malformed_calls', models.PositiveIntegerField(default=0)),
                ('queue_s', models.FloatField(default=0.0)),
                ('prefill_s', models.FloatField(default=0.0)),
                ('decode_s', models.FloatField(default=0.0)),
                ('total_s', models.FloatField(default=0.0)),
                ('began_at', models.DateTimeField(db_index=True)),
                ('turn', models.ForeignKey(null=True, on_delete=django.db.models.deletion.DB_CASCADE, related_name='generations', to='ledger.turn', to_field='public_id')),
            ],
        ),
    ]
