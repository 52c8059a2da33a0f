"""Pages by path."""

from django.urls import path

from dashboard.views import status

app_name = "dashboard"
urlpatterns = [path("", status, name="status")]
