"""One page, for the headers of pages."""

from __future__ import annotations

from django.http import HttpRequest, HttpResponse
from django.urls import path


async def page(request: HttpRequest) -> HttpResponse:
    return HttpResponse("<p>page</p>")


urlpatterns = [path("page", page)]
