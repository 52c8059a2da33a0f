"""Audits of the prefix cache: figures of warm requests that were computed once more from nothing."""

from django.db import migrations, models


class Migration(migrations.Migration):

    dependencies = [
        ('ledger', '0007_session_of_rows_alone'),
    ]

    operations = [
        migrations.CreateModel(
            name='Audit',
            fields=[
                ('id', models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name='ID')),
                ('at', models.DateTimeField()),
                ('model', models.CharField(max_length=256)),
                ('kinds', models.CharField(blank=True, default='', max_length=64)),
                ('prompt_tokens', models.PositiveIntegerField()),
                ('depth_tokens', models.PositiveIntegerField()),
                ('cold_from', models.PositiveIntegerField()),
                ('steps', models.PositiveIntegerField()),
                ('diverged_step', models.PositiveIntegerField(null=True)),
                ('distance', models.FloatField(null=True)),
                ('kv_distance', models.FloatField(null=True)),
                ('tolerance', models.FloatField()),
                ('verdict', models.CharField(max_length=16)),
                ('quarantined_from', models.PositiveIntegerField(null=True)),
                ('quarantined_blocks', models.PositiveIntegerField(default=0)),
                ('took_s', models.FloatField()),
            ],
        ),
    ]
