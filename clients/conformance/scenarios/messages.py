"""Messages both ways on a whole line."""

from kit.wire import ACK, DOWN, ID_MAX, REC, SEND, UP
from kit.world import World, scenario

EVERY_BYTE = bytes(range(256))
TEXTS = ["", "plain", "Grüße, 世界, \U0001f308", '{"a": [1, null]}', "\x00\x7f", "e\u0301 é", "\u202eabc"]


@scenario("up-qos0", "QoS 0 reaches the business server in order, without an id and without an answer")
def up_qos0(world: World) -> None:
    ann = world.client().open()
    ann.opened()
    for n in range(20):
        ann.send(f"{n}", f"zero {n}", qos=0)
    world.until("20 are forwarded", lambda: len(world.business.forwarded) >= 20)
    world.equal(world.business.bodies(), [b"zero %d" % n for n in range(20)], "bodies")
    world.equal(world.packets(), ["↑SEND"] * 20, "packets")
    world.check(all(unit.packet.qos == 0 for unit in world.relay.seen(UP, SEND)), "QoS 0 on the line")
    for n in range(20):
        ann.acknowledged(f"{n}")


@scenario("up-qos1", "QoS 1 is SEND and ACK; the send yields the business server's answer")
def up_qos1(world: World) -> None:
    ann = world.client().open()
    ann.opened()
    ann.send("a", "hello")
    world.equal(ann.acknowledged("a"), b"re:hello", "the answer")
    world.equal(world.packets(), ["↑SEND", "↓ACK"], "packets")
    world.check(world.relay.seen(UP, SEND, qos=1, dup=False), "the first SEND is without DUP")


@scenario("up-qos2", "QoS 2 is SEND, REC, REL, COM; the send yields the business server's answer")
def up_qos2(world: World) -> None:
    ann = world.client().open()
    ann.opened()
    ann.send("a", "hello", qos=2)
    world.equal(ann.acknowledged("a"), b"re:hello", "the answer")
    world.equal(world.packets(), ["↑SEND", "↓REC", "↑REL", "↓COM"], "packets")
    ids = {unit.packet.id for unit in world.relay.units if unit.packet and not unit.is_greeting}
    world.equal(len(ids), 1, "ids of one exchange")


@scenario("up-plain", "QoS 0, 1 and 2 without `rainbow.2`", plain=True, needs=("plain",))
def up_plain(world: World) -> None:
    ann = world.client().open()
    ann.opened()
    for qos in (0, 1, 2):
        ann.send(f"{qos}", f"plain {qos}", qos=qos)
    for qos in (1, 2):
        world.equal(ann.acknowledged(f"{qos}"), b"re:plain %d" % qos, "the answer")
    world.until("all are forwarded", lambda: len(world.business.forwarded) == 3)


@scenario("down-qos0", "QoS 0 is handed on in order, and not answered")
def down_qos0(world: World) -> None:
    ann = world.client().open()
    ann.opened()
    for n in range(20):
        world.say(f"zero {n}", qos=0).result(10)
    ann.expect("message", 20)
    world.equal(ann.heard(qos=0), [b"zero %d" % n for n in range(20)], "bodies")
    world.equal(world.packets(), ["↓SEND"] * 20, "packets")


@scenario("down-qos1", "QoS 1 is handed on and answered by ACK")
def down_qos1(world: World) -> None:
    ann = world.client().open()
    ann.opened()
    world.equal(world.say("hello", qos=1).result(10).get("connections"), 1, "connections")
    world.equal(ann.heard(qos=1, type=7), [b"hello"], "bodies")
    world.equal(world.packets(), ["↓SEND", "↑ACK"], "packets")


@scenario("down-qos2", "QoS 2 is handed on, answered by REC, and REL by COM")
def down_qos2(world: World) -> None:
    ann = world.client().open()
    ann.opened()
    world.equal(world.say("hello", qos=2).result(10).get("connections"), 1, "connections")
    world.until("the exchange ends", lambda: len(world.packets()) >= 4)
    world.equal(ann.heard(qos=2, type=7), [b"hello"], "bodies")
    world.equal(world.packets(), ["↓SEND", "↑REC", "↓REL", "↑COM"], "packets")


@scenario("down-plain", "QoS 0, 1 and 2 from the server without `rainbow.2`", plain=True, needs=("plain",))
def down_plain(world: World) -> None:
    ann = world.client().open()
    ann.opened()
    for qos in (0, 1, 2):
        answer = world.say(f"plain {qos}", qos=qos).result(10)
        world.check(qos == 0 or answer.get("connections") == 1, f"QoS {qos} is answered: {answer}")
        ann.expect("message", qos=qos)
    world.equal(ann.heard(), [b"plain 0", b"plain 1", b"plain 2"], "bodies")


@scenario("reply", "what the handler returns goes back with ACK and REC, byte for byte")
def reply(world: World) -> None:
    ann = world.client().open()
    ann.opened()
    for qos, text in ((1, "fine, thanks"), (2, "grüße \U0001f308")):
        ann.set("reply", text=text)
        world.equal(world.say("how are you?", qos=qos).result(10).get("data"), text, f"the reply of QoS {qos}")
    replies = [unit.packet.body.decode() for command in (ACK, REC) for unit in world.relay.seen(UP, command)]
    world.equal(replies, ["fine, thanks", "grüße \U0001f308"], "bodies of ACK and REC")


@scenario("ack-after-handling", "neither ACK nor REC before the handler has ended")
def ack_after_handling(world: World) -> None:
    ann = world.client().open()
    ann.opened()
    for qos, answer in ((1, ACK), (2, REC)):
        ann.set("hold")
        said = world.say("slow", qos=qos)
        ann.expect("message", qos=qos)
        world.never(f"QoS {qos} is answered while it is handled", lambda a=answer: world.relay.seen(UP, a), 0.6)
        ann.set("release")
        world.equal(said.result(10).get("connections"), 1, "connections")
        world.equal(len(ann.heard(qos=qos)), 1, "times that it was handed on, repeats included")


@scenario("types", "message types from 0 to 65534, both ways")
def types(world: World) -> None:
    ann = world.client().open()
    ann.opened()
    numbers = [0, 1, 255, 256, 32768, 65534]
    for number in numbers:
        ann.send(f"{number}", "", type=number)
        ann.acknowledged(f"{number}")
        world.say("", qos=1, type=number).result(10)
    world.equal([hook.type for hook in world.business.forwarded], numbers, "types that were forwarded")
    ann.expect("message", count=len(numbers))
    world.equal([event["type"] for event in ann.all("message")], numbers, "types that were handed on")


@scenario("unicode", "text outside of ASCII, and no text at all, both ways")
def unicode_(world: World) -> None:
    ann = world.client().open()
    ann.opened()
    for n, text in enumerate(TEXTS):
        ann.send(f"{n}", text, qos=1 + n % 2)
        world.equal(ann.acknowledged(f"{n}"), b"re:" + text.encode(), "the answer")
        world.say(text, qos=1 + n % 2).result(10)
    world.equal(world.business.bodies(), [text.encode() for text in TEXTS], "bodies up")
    world.equal(ann.heard(), [text.encode() for text in TEXTS], "bodies down")


@scenario("binary", "every byte, both ways, in answers too")
def binary(world: World) -> None:
    ann = world.client().open()
    ann.opened()
    for qos in (0, 1, 2):
        ann.send(f"{qos}", EVERY_BYTE + bytes([qos]), qos=qos)
        if qos > 0:
            world.equal(ann.acknowledged(f"{qos}"), b"re:" + EVERY_BYTE + bytes([qos]), "the answer")
        world.say(EVERY_BYTE + bytes([qos]), qos=qos).result(10)
    world.until("all are forwarded", lambda: len(world.business.forwarded) == 3)
    ann.expect("message", 3)
    wanted = [EVERY_BYTE + bytes([qos]) for qos in (0, 1, 2)]
    world.equal(world.business.bodies(), wanted, "bodies up")
    world.equal(ann.heard(), wanted, "bodies down")


@scenario("large", "900,000 bytes, both ways", deadline=40)
def large(world: World) -> None:
    ann = world.client().open()
    ann.opened()
    body = (EVERY_BYTE * 3516)[:900_000]
    for qos in (1, 2):
        ann.send(f"{qos}", body, qos=qos)
        world.check(ann.acknowledged(f"{qos}", 15) == b"re:" + body, "the answer is the body")
        world.equal(world.say(body, qos=qos).result(15).get("connections"), 1, "connections")
    world.check(world.business.bodies() == [body, body], "bodies up")
    world.check(ann.heard() == [body, body], "bodies down")


@scenario("order-up", "the order of sends is kept for each QoS")
def order_up(world: World) -> None:
    ann = world.client().open()
    ann.opened()
    for n in range(90):
        ann.send(f"{n}", f"{n}", qos=n % 3)
    for n in range(90):
        ann.acknowledged(f"{n}")
    world.until("90 are forwarded", lambda: len(world.business.forwarded) >= 90)
    for qos in (0, 1, 2):
        found = [int(body) for body in world.business.bodies() if int(body) % 3 == qos]
        world.equal(found, list(range(qos, 90, 3)), f"order of QoS {qos}")


@scenario("order-down", "messages are handed on in order for each QoS")
def order_down(world: World) -> None:
    ann = world.client().open()
    ann.opened()
    for n in range(90):
        world.say(f"{n}", qos=n % 3, **({"wait": "stored"} if n % 3 else {})).result(10)
    ann.expect("message", 90)
    for qos in (0, 1, 2):
        world.equal([int(body) for body in ann.heard(qos=qos)], list(range(qos, 90, 3)), f"order of QoS {qos}")


@scenario("both-ways", "sixty messages each way at once, of every QoS: each once")
def both_ways(world: World) -> None:
    ann = world.client().open()
    ann.opened()
    said = []
    for n in range(60):
        ann.send(f"{n}", f"{n}", qos=n % 3)
        said.append(world.say(f"{n}", qos=n % 3))
    for n in range(60):
        ann.acknowledged(f"{n}")
        said[n].result(15)
    world.until("60 are forwarded", lambda: len(world.business.forwarded) >= 60)
    ann.expect("message", 60)
    world.equal(sorted(map(int, ann.heard())), list(range(60)), "messages down")
    world.equal(sorted(map(int, world.business.bodies())), list(range(60)), "messages up")


@scenario(
    "ids",
    "ids go upwards without gaps, use both bytes, and 1 follows 65534",
    server={"forward_url": ""},
    deadline=90,
)
def ids(world: World) -> str:
    count = ID_MAX + 300
    ann = world.client().open(timeout=60_000)
    ann.opened()
    world.relay.is_quiet = True
    ann.do("flood", tag="flood", count=count, qos=1, type=1, window=200)
    ann.acknowledged("flood", within=80)
    first = [unit.packet.id for unit in world.relay.seen(UP, SEND, dup=False)]
    world.check(first[0] == 1, f"the first id of a new session is 1, not {first[0]}")
    world.equal(first, [n % ID_MAX + 1 for n in range(count)], "ids")
    world.check(len(world.relay.seen(DOWN, ACK)) >= count, "each has its ACK")
    return f"{count} messages"
