"""A packet is lost on a line that lives on: who repeats what, and who takes it for a repeat."""

import threading

from kit.business import Answer, Hook
from kit.relay import DROP, PASS, late, nth
from kit.wire import ACK, COM, DOWN, REC, REL, SEND, UP, Packet, Unit
from kit.world import World, scenario


def lose_first(world: World, way: str, command: int, **fields: object) -> None:
    def matches(unit: Unit) -> bool:
        return unit.way == way and unit.is_(command, **fields) and not unit.is_greeting

    world.relay.rule = nth(1, matches, DROP)


def same_but_dup(world: World, units: list[Unit]) -> None:
    """The first is a SEND without DUP, the others are the same with it."""
    first, *others = [unit.packet for unit in units]
    world.check(
        not first.dup and others and all(packet.dup for packet in others), "repeats have DUP, the first has not"
    )
    world.equal({(p.id, p.type, p.qos, p.body) for p in [first, *others]}.__len__(), 1, "messages on the line")


@scenario("repeat-send-qos1", "a SEND of QoS 1 that has no answer is repeated with DUP and its id")
def repeat_send_qos1(world: World) -> None:
    ann = world.client().open()
    ann.opened()
    lose_first(world, UP, SEND)
    ann.send("a", "again", qos=1)
    world.equal(ann.acknowledged("a"), b"re:again", "the answer")
    same_but_dup(world, world.relay.seen(UP, SEND))
    world.equal(len(world.relay.lines), 1, "lines")


@scenario("repeat-send-qos2", "a SEND of QoS 2 that has no answer is repeated with DUP and its id")
def repeat_send_qos2(world: World) -> None:
    ann = world.client().open()
    ann.opened()
    lose_first(world, DOWN, REC)
    ann.send("a", "again", qos=2)
    world.equal(ann.acknowledged("a"), b"re:again", "the answer")
    same_but_dup(world, world.relay.seen(UP, SEND))
    world.equal(len(world.business.taken), 1, "messages that were taken")


@scenario("repeat-rel", "REL is repeated until COM comes")
def repeat_rel(world: World) -> None:
    ann = world.client().open()
    ann.opened()
    for n, (way, command) in enumerate(((UP, REL), (DOWN, COM))):
        lose_first(world, way, command)
        before = len(world.relay.seen(UP, REL))
        ann.send(f"{n}", f"{n}", qos=2)
        world.equal(ann.acknowledged(f"{n}"), b"re:%d" % n, "the answer")
        world.until("COM comes", lambda: world.relay.seen(DOWN, COM))
        world.check(len(world.relay.seen(UP, REL)) >= before + 2, "REL is repeated")
        world.equal(len(world.relay.seen(UP, SEND)), n + 1, "SENDs: after REC there are no more")


@scenario("dup-qos1", "a repeat of QoS 1 is answered again and not handed on again")
def dup_qos1(world: World) -> None:
    ann = world.client().open()
    ann.opened()
    ann.set("reply", text="mine")
    lose_first(world, UP, ACK)
    said = world.say("once", qos=1)
    world.equal(said.result(15).get("data"), "mine", "the reply, with the second ACK")
    world.check(world.relay.seen(DOWN, SEND, dup=True), "the server has repeated it")
    world.equal(ann.heard(), [b"once"], "messages")


@scenario("dup-qos2", "a repeat of QoS 2 is answered again and not handed on again")
def dup_qos2(world: World) -> None:
    ann = world.client().open()
    ann.opened()
    ann.set("reply", text="mine")
    lose_first(world, UP, REC)
    said = world.say("once", qos=2)
    world.equal(said.result(15).get("data"), "mine", "the reply, with the second REC")
    world.until("COM goes up", lambda: world.relay.seen(UP, COM))
    world.check(world.relay.seen(DOWN, SEND, dup=True), "the server has repeated it")
    world.equal(ann.heard(), [b"once"], "messages")


@scenario("dup-rel", "a repeated REL is answered by COM again")
def dup_rel(world: World) -> None:
    ann = world.client().open()
    ann.opened()
    lose_first(world, UP, COM)
    world.say("once", qos=2).result(15)
    world.until("a second COM", lambda: len(world.relay.seen(UP, COM)) >= 2)
    world.equal(ann.heard(), [b"once"], "messages")


@scenario("dup-slow", "answers that are a second late: repeats cross them, and nothing is handed on twice")
def dup_slow(world: World) -> None:
    ann = world.client().open()
    ann.opened()
    for qos in (1, 2):
        world.relay.rule = nth(1, lambda unit: unit.way == UP and (unit.is_(ACK) or unit.is_(REC)), late(1))
        world.equal(world.say(f"{qos}", qos=qos).result(15).get("connections"), 1, "connections")
        world.relay.rule = nth(1, lambda unit: unit.way == DOWN and (unit.is_(ACK) or unit.is_(REC)), late(1))
        ann.send(f"{qos}", f"{qos}", qos=qos)
        ann.acknowledged(f"{qos}")
    world.check(
        world.relay.seen(DOWN, SEND, dup=True) and world.relay.seen(UP, SEND, dup=True), "both sides have repeated"
    )
    world.equal(ann.heard(), [b"1", b"2"], "messages down")
    world.equal(world.business.bodies(), [b"1", b"2"], "messages up")


@scenario("id-reuse-qos1", "the id of an answered QoS 1 message, without DUP, is a new message; with DUP a repeat")
def id_reuse_qos1(world: World) -> None:
    ann = world.client().open()
    ann.opened()
    world.relay.rule = lambda unit: DROP if unit.packet is not None and unit.packet.id == 5000 else PASS
    for n, (body, dup) in enumerate(((b"one", False), (b"one", True), (b"two", False), (b"two", True)), 1):
        world.relay.inject(Packet(SEND, 5000, body, 7, 1, dup))
        world.until("it is answered", lambda n=n: len(world.relay.seen(UP, ACK, id=5000)) >= n)
    world.equal(ann.heard(), [b"one", b"two"], "messages")


@scenario("id-held-qos2", "a QoS 2 id is one message until REL, with or without DUP; after REL another")
def id_held_qos2(world: World) -> None:
    ann = world.client().open()
    ann.opened()
    # The server knows nothing of it, and would release what it does not know.
    world.relay.rule = lambda unit: DROP if unit.packet is not None and unit.packet.id == 5000 else PASS
    for n, dup in enumerate((False, False, True), 1):
        world.relay.inject(Packet(SEND, 5000, b"one", 7, 2, dup))
        world.until("it is answered", lambda n=n: len(world.relay.seen(UP, REC, id=5000)) >= n)
    world.relay.inject(Packet(REL, 5000))
    world.until("COM goes up", lambda: world.relay.seen(UP, COM, id=5000))
    world.relay.inject(Packet(SEND, 5000, b"two", 7, 2))
    world.until("it is answered", lambda: len(world.relay.seen(UP, REC, id=5000)) >= 4)
    world.equal(ann.heard(), [b"one", b"two"], "messages")


@scenario("unknown-ids", "REL of an unknown id gets COM, REC of an unknown id gets REL, ACK and COM get nothing")
def unknown_ids(world: World) -> None:
    ann = world.client().open()
    ann.opened()
    world.relay.inject(Packet(ACK, 777, b"?"))
    world.relay.inject(Packet(COM, 778))
    world.relay.inject(Packet(REL, 779))
    world.until("COM goes up", lambda: world.relay.seen(UP, COM, id=779))
    world.relay.inject(Packet(REC, 780, b"?"))
    world.until("REL goes up", lambda: world.relay.seen(UP, REL, id=780))
    ann.send("a", "still here")
    ann.acknowledged("a")
    world.equal(len(world.relay.lines), 1, "lines")
    named = {unit.packet.id for unit in world.relay.units if unit.way == UP and unit.packet}
    world.check(not named & {777, 778}, "nothing is said of the ACK and the COM")


@scenario("timeout", "a send without an answer is rejected in its time; a late REC gets REL all the same")
def timeout(world: World) -> None:
    go_on = threading.Event()

    def slow(hook: Hook) -> Answer:
        go_on.wait(10)
        return Answer(b"late")

    world.business.on_message = slow
    ann = world.client().open()
    ann.opened()
    ann.send("a", "patience", qos=2, timeout=700)
    world.equal(ann.expect("rejected", tag="a", within=3)["code"], "timeout", "the error")
    go_on.set()
    world.until("REL for the late REC", lambda: world.relay.seen(UP, REL))
    world.until("COM", lambda: world.relay.seen(DOWN, COM))
    ann.send("b", "next", qos=2)
    world.equal(ann.acknowledged("b"), b"late", "the answer")
