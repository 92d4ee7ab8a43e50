from django.db import migrations, models
from django.utils import timezone


class Migration(migrations.Migration):
    initial = True
    dependencies = []
    operations = [
        migrations.CreateModel(
            name="ProcessedMessage",
            fields=[
                ("key", models.CharField(max_length=255, primary_key=True, serialize=False)),
                ("status", models.PositiveSmallIntegerField(default=0)),
                ("content_type", models.CharField(default="", max_length=255)),
                ("headers", models.JSONField(default=list)),
                ("body", models.BinaryField(default=b"")),
                ("created_at", models.DateTimeField(db_index=True, default=timezone.now)),
            ],
            options={"verbose_name": "processed message"},
        ),
    ]
