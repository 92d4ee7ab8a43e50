"""The business server of device.py, without a framework.

curl http://127.0.0.1:8000/                                      the last report of each device
curl http://127.0.0.1:8000/set?device=thermostat-1 -d celsius=22    an order; it answers what the device answers
"""

import json
import os
from socketserver import ThreadingMixIn
from urllib.parse import parse_qs
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

from rainbow import Hooks, Rainbow, RainbowError

PORT = int(os.environ.get("EXAMPLE_PORT", "8000"))
REPORT, SET = 1, 2
hooks = Hooks(token="testtoken")
server = Rainbow(f"http://127.0.0.1:{os.environ.get('EXAMPLE_RAINBOW_PORT', '1984')}", token="testtoken")
reports = {}


@hooks.rainbow_connect
def connect(request):
    request.cookie = {"device": request.device}
    request.session, request.session_expiry = f"device:{request.device}", 24 * 3600


@hooks.rainbow(REPORT)
def report(request):
    reports[request.cookie["device"]] = request.data


def application(environ, start_response):
    if environ["PATH_INFO"].startswith("/rainbow/"):
        return hooks.wsgi(environ, start_response)
    status, answer = "200 OK", reports
    if environ["PATH_INFO"] == "/set":
        (device,) = parse_qs(environ["QUERY_STRING"])["device"]
        (celsius,) = parse_qs(environ["wsgi.input"].read(int(environ["CONTENT_LENGTH"])).decode())["celsius"]
        try:
            result = server.send(session=f"device:{device}", data={"celsius": float(celsius)}, msgtype=SET, timeout=5)
            answer = {"answer": json.loads(result.data)} if result.data else {"stored": result.stored}
        except RainbowError as error:
            status, answer = "502 Bad Gateway", {"error": str(error)}
    start_response(status, [("Content-Type", "application/json")])
    return [json.dumps(answer).encode()]


class Server(ThreadingMixIn, WSGIServer):
    daemon_threads = True


class Handler(WSGIRequestHandler):
    def log_message(self, *_):
        pass


if __name__ == "__main__":
    make_server("127.0.0.1", PORT, application, Server, Handler).serve_forever()
