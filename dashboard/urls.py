"""Pages by path."""

from django.urls import path

from dashboard.views import login, status

app_name = "dashboard"
urlpatterns = [path("", status, name="status"), path("login", login, name="login")]
