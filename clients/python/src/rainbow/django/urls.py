"""connect/, message/<type>/, close/ and receipt/: what Rainbow's `connect_url` and its kin name."""

from django.urls import path

from . import views

app_name = "rainbow"
urlpatterns = [
    path("connect/", views.connect, name="connect"),
    path("message/<int:message_type>/", views.message, name="message"),
    path("close/", views.close, name="close"),
    path("receipt/", views.receipt, name="receipt"),
]
