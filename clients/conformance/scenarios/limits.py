"""What the server or the business server does not take, and what the client must not take."""

import json
from collections.abc import Callable

from kit.business import Answer
from kit.relay import PASS, Action, instead, nth
from kit.wire import ACK, DOWN, REC, SEND, UP, Packet, Unit
from kit.world import World, scenario

LIMIT = 4096
SMALL = {"message_bytes_max": LIMIT}


def edited(change: Callable[[dict[str, object]], None]) -> Callable[[Unit], Action]:
    """A rule that changes greetings."""

    def rule(unit: Unit) -> Action:
        packet = unit.packet
        if packet is None or not unit.is_greeting:
            return PASS
        told = json.loads(packet.body)
        change(told)
        return instead(Packet(SEND, body=json.dumps(told).encode(), type=packet.type).encode())

    return rule


@scenario(
    "greeting-limit",
    "a message over the greeting's limit is rejected at once and not written; one at the limit passes",
    server=SMALL,
)
def greeting_limit(world: World) -> None:
    ann = world.client().open()
    ann.opened()
    for qos in (0, 1, 2):
        header = 5 if qos else 3
        ann.send(f"over {qos}", "x" * (LIMIT - header + 1), qos=qos)
        error = ann.expect("rejected", tag=f"over {qos}", within=2)
        world.equal(error["code"], "too_large", "the error")
    for qos in (1, 2):
        ann.send(f"at {qos}", "x" * (LIMIT - 5), qos=qos)
        ann.acknowledged(f"at {qos}")
    sizes = [len(unit.payload) for unit in world.relay.seen(UP, SEND)]
    world.equal(max(sizes), LIMIT, "the largest message on the line")
    world.equal(len(world.relay.lines), 1, "lines")


@scenario("closed-1009", "after 1009 the culprit is rejected and never repeated; the others arrive", server=SMALL)
def closed_1009(world: World) -> None:
    world.relay.rule = edited(lambda told: told.update(message_bytes_max=1 << 20))
    too_large(world)


@scenario("closed-1009-plain", "the same without a greeting", server=SMALL, plain=True, needs=("plain",))
def closed_1009_plain(world: World) -> None:
    too_large(world)


def too_large(world: World) -> None:
    ann = world.client().open()
    ann.opened()
    ann.send("small", "s" * 1000, qos=1)
    ann.send("huge", "h" * 5000, qos=1)
    ann.send("other", "o" * 2000, qos=2)
    world.equal(ann.expect("rejected", tag="huge")["code"], "too_large", "the error")
    world.equal(ann.expect("closed")["code"], 1009, "the close code")
    ann.acknowledged("small")
    ann.acknowledged("other")
    huge = [unit for unit in world.relay.seen(UP, SEND) if len(unit.payload) > LIMIT]
    world.equal(len(huge), 1, "times that it was on the line")
    world.equal(len(world.relay.lines), 2, "lines")


@scenario(
    "backend-4xx", "a message that the business server refuses is rejected with status and body; the next one passes"
)
def backend_4xx(world: World) -> None:
    world.business.on_message = lambda hook: Answer(b"\xffno: " + hook.body, 422) if hook.type == 3 else Answer(b"yes")
    ann = world.client().open()
    ann.opened()
    for qos in (1, 2):
        ann.send(f"bad {qos}", "bad", type=3, qos=qos)
        error = ann.expect("rejected", tag=f"bad {qos}")
        world.equal((error["code"], error["status"], error.body), ("refused", 422, b"\xffno: bad"), "the error")
        ann.send(f"good {qos}", "good", qos=qos)
        world.equal(ann.acknowledged(f"good {qos}"), b"yes", "the answer")
    wanted = ["↑SEND", "↓ACK"] * 2 + ["↑SEND", "↓REC", "↑REL", "↓COM"] * 2
    world.equal(world.packets(), wanted, "packets: REL and COM follow a REC that refuses")
    world.equal(len(world.relay.lines), 1, "lines")


@scenario("refused-bit-plain", "without `rainbow.2` bit 0 of an ACK means nothing", plain=True, needs=("plain",))
def refused_bit_plain(world: World) -> None:
    def rule(unit: Unit) -> Action:
        packet = unit.packet
        if unit.way == DOWN and packet is not None and packet.command in (ACK, REC):
            return instead(bytes([unit.payload[0] | 1]) + unit.payload[1:])
        return PASS

    world.relay.rule = rule
    ann = world.client().open()
    ann.opened()
    for qos in (1, 2):
        ann.send(f"{qos}", "hello", qos=qos)
        world.equal(ann.acknowledged(f"{qos}"), b"re:hello", "the answer")


@scenario(
    "backend-retry",
    "the business server fails for a second: the client repeats, hears one answer, and the message has one key",
)
def backend_retry(world: World) -> None:
    is_back = False
    world.business.on_message = lambda hook: Answer(b"at last") if is_back else Answer(b"", 503)
    ann = world.client().open()
    ann.opened()
    for qos in (1, 2):
        is_back = False
        before = len(world.relay.seen(UP, SEND))
        ann.send(f"{qos}", f"{qos}", qos=qos)
        world.until("it is repeated twice", lambda n=before: len(world.relay.seen(UP, SEND)) >= n + 3)
        is_back = True
        world.equal(ann.acknowledged(f"{qos}"), b"at last", "the answer")
        world.equal(len(ann.all("acknowledged", tag=f"{qos}")), 1, "answers")
    world.equal(world.business.bodies(), [b"1", b"2"], "messages, by their keys")


@scenario("malformed", "what is no packet ends the connection; the client comes back and works")
def malformed(world: World) -> str:
    broken = [
        "00000100",
        "12000100",
        "2000",
        "50",
        "1600010001",
        "1400010000",
        "30ffff",
        "4000017a",
        "f000010001",
        "21000141",
    ]
    ann = world.client().open()
    for n, data in enumerate(broken, 1):
        ann.opened(n)
        world.relay.inject(bytes.fromhex(data))
        closed = ann.expect("closed", n)
        world.check(closed["retry"] is not None, f"an attempt follows {data}")
        ann.send(data, data, qos=2)
        ann.acknowledged(data)
    world.check(not ann.heard(), "nothing of it was handed on")
    return f"{len(broken)} packets"


@scenario("greeting-fields", "a greeting with fields that are not known yet, and without those that may be missing")
def greeting_fields(world: World) -> None:
    def change(told: dict[str, object]) -> None:
        for name in ("heartbeat", "message_bytes_max", "identity"):
            del told[name]
        told.update(later={"a": [1]}, flags=None)

    world.relay.rule = edited(change)
    ann = world.client().open()
    world.equal(ann.opened()["session"], "ann", "the session")
    ann.send("a", "hello", qos=2)
    ann.acknowledged("a")
    world.equal(world.say("hello", qos=2).result(10).get("connections"), 1, "connections")


@scenario("greeting-first", "nothing is written before the greeting")
def greeting_first(world: World) -> None:
    world.relay.rule = nth(1, lambda unit: unit.is_greeting, Action("0.7 s late", delay=0.7))
    ann = world.client().open()
    for n in range(3):
        ann.send(f"{n}", f"{n}", qos=1 + n % 2)
    for n in range(3):
        ann.acknowledged(f"{n}")
    # The late greeting was seen before it passed.
    greeting = next(unit for unit in world.relay.units if unit.is_greeting)
    first = world.relay.seen(UP, SEND)[0]
    world.check(
        first.at >= greeting.at + 0.6,
        f"the first packet comes {first.at - greeting.at:.2f} s after the greeting was sent",
    )
    world.equal(world.business.bodies(), [b"0", b"1", b"2"], "messages")
