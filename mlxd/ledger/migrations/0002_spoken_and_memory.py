"""What turns said and what their lineages had read: the tables with content."""

import django.db.models.deletion
from django.db import migrations, models


class Migration(migrations.Migration):

    dependencies = [
        ('ledger', '0001_initial'),
    ]

    operations = [
        migrations.CreateModel(
            name='Memory',
            fields=[
                ('turn', models.OneToOneField(on_delete=django.db.models.deletion.DB_CASCADE, primary_key=True, related_name='memory', serialize=False, to='ledger.turn', to_field='public_id')),
                ('body', models.BinaryField()),
                ('size', models.PositiveIntegerField()),
                ('at', models.DateTimeField()),
            ],
            options={'indexes': [models.Index(fields=['at', 'size'], name='memory_at_size')]},
        ),
        migrations.CreateModel(
            name='Spoken',
            fields=[
                ('id', models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name='ID')),
                ('place', models.BinaryField(db_index=True)),
                ('body', models.BinaryField()),
                ('size', models.PositiveIntegerField()),
                ('at', models.DateTimeField()),
                ('turn', models.ForeignKey(null=True, on_delete=django.db.models.deletion.DB_CASCADE, related_name='spoken', to='ledger.turn', to_field='public_id')),
            ],
            options={'indexes': [models.Index(fields=['at', 'size'], name='spoken_at_size')]},
        ),
    ]
