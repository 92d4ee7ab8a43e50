"""A Rainbow for your own tests: in the process, without sockets. It records calls and drives your hooks.

    def test_chat(rainbow_fake):                      # a pytest fixture; or: with FakeRainbow() as fake
        rainbow_fake.serve(wsgi=application)
        ann = rainbow_fake.connect(device="ann")
        assert ann.send(1, {"text": "hi"}).json() == {"status": "ok"}
        assert ann.received[0].json() == {"text": "hi"}

While it is installed, every `Rainbow` and `AsyncRainbow` of the process calls it.
"""

from .fake import FakeClient, FakeRainbow, RecordedCall

__all__ = ["FakeClient", "FakeRainbow", "RecordedCall"]
