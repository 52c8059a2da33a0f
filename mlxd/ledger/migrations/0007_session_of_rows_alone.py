"""Whose generations and answers are that became no turn: their session, so that they go with it."""

from django.db import migrations, models


class Migration(migrations.Migration):

    dependencies = [
        ('ledger', '0004_keys'),
    ]

    operations = [
        migrations.AddField(
            model_name='generation',
            name='session',
            field=models.CharField(blank=True, default='', max_length=64),
        ),
        migrations.AddField(
            model_name='spoken',
            name='session',
            field=models.CharField(blank=True, default='', max_length=64),
        ),
        migrations.AddIndex(
            model_name='generation',
            index=models.Index(condition=models.Q(('turn', None)), fields=['session'], name='generation_alone'),
        ),
        migrations.AddIndex(
            model_name='spoken',
            index=models.Index(condition=models.Q(('turn', None)), fields=['session'], name='spoken_alone'),
        ),
    ]
