"""How a connection ends, and what follows: refusals, close codes, restarts."""

from kit.business import Answer, refusal, success
from kit.wire import CLOSE, UP
from kit.world import World, scenario

REASON = "no such user: ü"


@scenario("who", "the business server hears device, platform and query parameters at each connection")
def who(world: World) -> None:
    ann = world.client().open(params={"token": "a&b=c ü", "empty": ""})
    ann.opened()
    world.relay.cut()
    ann.opened(2)
    for hook in world.business.heard("connect"):
        world.equal(hook.device, "ann", "X-DEVICEID")
        world.check(hook.headers.get("x-client-os"), "X-CLIENT-OS is told")
        world.equal((hook.query.get("token"), hook.query.get("empty")), ("a&b=c ü", ""), "parameters")


@scenario("params-each", "parameters are made anew for each attempt: a fresh token", needs=("params_each",))
def params_each(world: World) -> None:
    ann = world.client()
    ann.set("params", each=[{"token": "first"}, {"token": "second"}, {"token": "third"}])
    ann.open()
    for n in (1, 2):
        ann.opened(n)
        world.relay.cut()
    ann.opened(3)
    tokens = [hook.query.get("token") for hook in world.business.heard("connect")]
    world.equal(tokens, ["first", "second", "third"], "tokens")


@scenario("refused", "4401 is final and tells why; a later `open` tries again")
def refused(world: World) -> None:
    world.business.on_connect = lambda hook: refusal(REASON)
    ann = world.client().open()
    error = ann.expect("rejected", tag="open")
    world.equal((error["code"], error["reason"]), ("refused", REASON), "the error of `open`")
    closed = ann.expect("closed")
    world.equal((closed["code"], closed["reason"], closed["retry"]), (4401, REASON, None), "the close")
    world.never("it asks again", lambda: len(world.relay.lines) > 1, 1.5)
    world.business.on_connect = lambda hook: success()
    ann.open(tag="again")
    ann.opened()


@scenario("refused-403", "HTTP 403 of the business server is a refusal, as 401 is")
def refused_403(world: World) -> None:
    for n, status in enumerate((403, 401), 1):
        world.business.on_connect = lambda hook, status=status: Answer(b"", status)
        ann = world.client().open()
        world.equal(ann.expect("rejected", tag="open")["code"], "refused", f"the error after {status}")
        world.equal(ann.expect("closed")["code"], 4401, "the close code")
        world.never("it asks again", lambda n=n: len(world.relay.lines) > n, 0.7)


@scenario("refused-plain", "HTTP 401 is final", plain=True, needs=("plain", "http_status"))
def refused_plain(world: World) -> None:
    world.business.on_connect = lambda hook: refusal(REASON)
    ann = world.client().open()
    world.equal(ann.expect("rejected", tag="open")["code"], "refused", "the error of `open`")
    world.equal(ann.expect("closed")["retry"], None, "the next attempt")
    world.never("it asks again", lambda: len(world.relay.lines) > 1, 1.5)


@scenario("refused-later", "a refusal at a reconnection rejects what is under way")
def refused_later(world: World) -> None:
    world.business.on_message = lambda hook: Answer(b"", 503)
    ann = world.client().open()
    ann.opened()
    ann.send("a", "under way")
    world.until("it is forwarded", lambda: world.business.forwarded)
    world.business.on_connect = lambda hook: refusal(REASON)
    world.relay.cut()
    world.check(ann.expect("rejected", tag="a")["code"] in ("refused", "closed"), "the send is rejected at once")
    closed = ann.expect("closed", 2)
    world.equal((closed["code"], closed["retry"]), (4401, None), "the close")
    world.never("it asks again", lambda: len(world.relay.lines) > 2, 1)


@scenario("backend-away", "4503 is not final: the client comes when the business server can be asked")
def backend_away(world: World) -> None:
    world.business.on_connect = lambda hook: Answer(b"down", 500)
    ann = world.client().open()
    closed = ann.expect("closed", 3)
    world.check(
        closed["code"] == 4503 and closed["retry"] is not None, f"4503, and an attempt follows: {closed.fields}"
    )
    world.check(not ann.all("rejected"), "`open` still waits")
    world.business.on_connect = lambda hook: success()
    ann.opened()
    ann.acknowledged("open")


@scenario("kicked", "kicked with 4500 is final, with its reason; with 4000 or 4403 the client comes back")
def kicked(world: World) -> None:
    ann = world.client().open()
    for n, code in enumerate((4000, 4403), 1):
        ann.opened(n)
        world.call("/kick/", b'{"channel": "room", "code": %d, "reason": "come back"}' % code)
        closed = ann.expect("closed", n)
        world.equal((closed["code"], closed["reason"]), (code, "come back"), "the close")
        world.check(closed["retry"] is not None, f"an attempt follows {code}")
    ann.opened(3)
    world.call("/kick/", '{"channel": "room", "code": 4500, "reason": "grüße"}'.encode())
    closed = ann.expect("closed", 3)
    world.equal((closed["code"], closed["reason"], closed["retry"]), (4500, "grüße", None), "the close")
    world.never("it comes back", lambda: len(world.relay.lines) > 3, 1)


@scenario("close-codes", "which close codes are final, and which bring the client back")
def close_codes(world: World) -> str:
    returns = [1001, 1002, 1008, 1011, 1013, 4000, 4402, 4403, 4499, 4503]
    final = [4401, 4409, 4500, 4502, 4504, 4999]
    ann = world.client().open()
    closes = 0
    for code in returns:
        closes += 1
        ann.opened(closes)
        world.relay.inject_close(code, "why")
        closed = ann.expect("closed", closes)
        world.equal((closed["code"], closed["reason"]), (code, "why"), "the close")
        world.check(closed["retry"] is not None, f"an attempt follows {code}")
    for code in final:
        closes += 1
        ann.opened(closes)
        lines = len(world.relay.lines)
        world.relay.inject_close(code, "why")
        closed = ann.expect("closed", closes)
        world.equal((closed["code"], closed["reason"], closed["retry"]), (code, "why", None), "the close")
        world.never(f"it comes back after {code}", lambda n=lines: len(world.relay.lines) > n, 0.3)
        ann.open(tag=f"{code}")
    return f"{closes} codes"


@scenario(
    "closed-by-client", "`close` ends it: code 1000 on the line, what is unanswered is rejected, no attempt follows"
)
def closed_by_client(world: World) -> None:
    world.business.on_message = lambda hook: Answer(b"", 503)
    ann = world.client().open()
    ann.opened()
    ann.send("a", "under way")
    world.until("it is forwarded", lambda: world.business.forwarded)
    ann.close()
    world.equal(ann.expect("rejected", tag="a")["code"], "closed", "the unanswered send")
    world.business.on_message = lambda hook: Answer()
    world.equal(ann.expect("closed")["retry"], None, "the next attempt")
    closes = lambda: [unit for unit in world.relay.units if unit.way == UP and unit.opcode == CLOSE]  # noqa: E731
    world.until("a close frame", closes)
    world.equal(int.from_bytes(closes()[0].payload[:2], "big"), 1000, "its code")
    world.until("the business server hears of it", lambda: world.business.heard("close"))
    world.never("it comes back", lambda: len(world.relay.lines) > 1, 1)


@scenario("closed-while-away", "`close` while there is no connection: no attempt follows")
def closed_while_away(world: World) -> None:
    ann = world.client().open(backoff_min=300, backoff_max=300)
    ann.opened()
    world.relay.target = None
    world.relay.cut()
    ann.expect("closed")
    ann.send("a", "under way")
    ann.close()
    world.equal(ann.expect("rejected", tag="a")["code"], "closed", "the send")
    lines = len(world.relay.lines)
    world.never("it comes back", lambda: len(world.relay.lines) > lines, 1.2)


@scenario("server-restart", "the server says goodbye and comes back: the session goes on, nothing is lost or doubled")
def server_restart(world: World) -> None:
    restarted(world, "stop")


@scenario("server-killed", "the server is killed and comes back: the session goes on, nothing is lost or doubled")
def server_killed(world: World) -> None:
    restarted(world, "kill")


def restarted(world: World, how: str) -> None:
    world.business.on_message = lambda hook: Answer(b"done") if is_back else Answer(b"", 503)
    is_back = False
    ann = world.client().open()
    ann.opened()
    world.store("before", qos=2)
    ann.expect("message")
    for n in range(5):
        ann.send(f"{n}", f"{n}", qos=1 + n % 2)
    world.until("one is forwarded", lambda: world.business.forwarded)
    world.restart(how)
    is_back = True
    world.equal(ann.opened(2, 15)["resumed"], True, "resumed")
    for n in range(5):
        world.equal(ann.acknowledged(f"{n}", 15), b"done", "the answer")
    world.store("after", qos=2)
    ann.expect("message", 2)
    world.equal(ann.heard(), [b"before", b"after"], "messages down")
    world.equal(sorted(set(world.business.bodies())), [b"%d" % n for n in range(5)], "messages up")
    qos2 = [body for body in world.business.bodies() if int(body) % 2]
    world.equal(len(qos2), len(set(qos2)), "QoS 2, each once")


@scenario(
    "server-down",
    "no server at the first `open`: the client waits for it, and what was sent meanwhile arrives",
    starts=False,
)
def server_down(world: World) -> None:
    ann = world.client().open()
    for n in range(5):
        ann.send(f"{n}", f"{n}", qos=1 + n % 2)
    ann.send("zero", "zero", qos=0)
    world.equal(ann.expect("rejected", tag="zero")["code"], "closed", "QoS 0 is not kept for later")
    closed = ann.expect("closed", 3)
    world.check(closed["retry"] is not None, "an attempt follows")
    world.check(not ann.all("rejected", tag="open"), "`open` still waits")
    world.start()
    ann.opened()
    ann.acknowledged("open")
    for n in range(5):
        ann.acknowledged(f"{n}")
    world.equal(world.business.bodies(), [b"%d" % n for n in range(5)], "messages, in order")
