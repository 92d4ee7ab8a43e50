from django.urls import include, path

urlpatterns = [path("rainbow/", include("rainbow.django.urls"))]
