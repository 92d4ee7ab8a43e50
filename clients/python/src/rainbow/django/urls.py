"""connect/, message/<type>/, close/ and receipt/: what `connect_url`, `forward_url`, `close_url` and `receipt_url` name."""

from django.urls import path

from . import views

app_name = "rainbow"
urlpatterns = [
    path("connect/", views.connect, name="connect"),
    path("message/<int:message_type>/", views.message, name="message"),
    path("close/", views.close, name="close"),
    path("receipt/", views.receipt, name="receipt"),
]
