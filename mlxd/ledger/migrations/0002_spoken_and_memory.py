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
                ('size', models.PositiveIntegerField(db_index=True)),
                ('at', models.DateTimeField(db_index=True)),
            ],
        ),
        migrations.CreateModel(
            name='Spoken',
            fields=[
                ('id', models.CharField(max_length=32, primary_key=True, serialize=False)),
                ('place', models.BinaryField(db_index=True)),
                ('body', models.BinaryField()),
                ('size', models.PositiveIntegerField(db_index=True)),
                ('at', models.DateTimeField(db_index=True)),
                ('turn', models.ForeignKey(null=True, on_delete=django.db.models.deletion.DB_CASCADE, related_name='spoken', to='ledger.turn', to_field='public_id')),
            ],
        ),
    ]
