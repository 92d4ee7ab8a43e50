import os

SECRET_KEY = "only for tests"
DEBUG = True
ALLOWED_HOSTS = ["*"]
INSTALLED_APPS = ["rainbow.django", "tests.django_site.chat"]
ROOT_URLCONF = "tests.django_site.urls"
USE_TZ = True
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
DATABASES = {
    "default": {
        "ENGINE": "django.db.backends.sqlite3",
        "NAME": os.environ.get("DJANGO_DATABASE", ":memory:"),
        "OPTIONS": {"timeout": 20},
    }
}
RAINBOW_SERVER_URL = os.environ.get("DJANGO_RAINBOW", "http://127.0.0.1:1984")
RAINBOW_TOKEN = "testtoken"
