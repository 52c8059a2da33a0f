"""Why a prompt left what its session had stored: the rule in the figures, the texts in a table of content."""

import django.db.models.deletion
from django.db import migrations, models


class Migration(migrations.Migration):

    dependencies = [
        ('ledger', '0002_spoken_and_memory'),
    ]

    operations = [
        migrations.AddField(
            model_name='generation',
            name='diverged_rule',
            field=models.CharField(blank=True, default='', max_length=64),
        ),
        migrations.CreateModel(
            name='Difference',
            fields=[
                ('generation', models.OneToOneField(on_delete=django.db.models.deletion.DB_CASCADE, primary_key=True, related_name='difference', serialize=False, to='ledger.generation')),
                ('before', models.TextField()),
                ('sent', models.TextField()),
                ('stored', models.TextField()),
            ],
        ),
    ]
