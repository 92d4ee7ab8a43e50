#import "RBWOutbox.h"
#import "RBWErrors.h"
#import "RBWOwnership.h"
#import "RBWSystem.h"
#import "RBWTimer.h"

@implementation RBWOutbox

@synthesize ids = _ids, packetBytesMax = _packetBytesMax;

- (instancetype)initWithRepeatInterval:(NSTimeInterval)repeatInterval writer:(id<RBWPacketWriter>)writer {
    if ((self = [super init])) {
        _repeatInterval = repeatInterval;
        _writer = writer;
        _packetBytesMax = NSUIntegerMax;
        _sends = [[NSMutableArray alloc] init];
        _pending = [[NSMutableDictionary alloc] init];
        _ids = [[RBWSessionIDs alloc] initWithSession:nil storage:nil lastID:0];
    }
    return self;
}

- (void)dealloc {
    RBW_RELEASE(_sends);
    RBW_RELEASE(_pending);
    RBW_RELEASE(_ids);
    RBW_SUPER_DEALLOC;
}

- (NSUInteger)count {
    return _sends.count;
}

- (BOOL)isPending:(uint16_t)identifier {
    return [_pending objectForKey:@(identifier)] != nil;
}

- (void)add:(RBWSend *)send {
    [_sends addObject:send];
    if (send.timeout > 0) {
        send.deadlineTimer = [RBWTimer timerAfter:send.timeout target:self selector:@selector(deadlineCame:) userInfo:send];
    }
    if (_writer.isOpen) [self transmit:send];
}

// Out.

/// Writes what the send's state asks for now, and again until it is answered or the line is gone.
- (void)transmit:(RBWSend *)send {
    [send.repeatTimer invalidate];
    send.repeatTimer = [RBWTimer timerEvery:_repeatInterval target:self selector:@selector(repeatCame:) userInfo:send];
    [self write:send];
}

- (void)repeatCame:(RBWTimer *)timer {
    [self write:timer.userInfo];
}

- (void)write:(RBWSend *)send {
    if (send.isWritten && _writer.isCongested) return;
    if (send.identifier == 0) [self number:send];
    if (send.answer != nil) {
        return [_writer writePacket:[RBWPacket packetWithCommand:RBWCommandRel identifier:send.identifier body:nil]];
    }
    RBWPacket *packet = [RBWPacket packetWithCommand:RBWCommandSend identifier:send.identifier body:send.data];
    packet.type = send.type;
    packet.qos = send.qos;
    packet.isDuplicate = send.isWritten;
    send.isWritten = YES;
    [_writer writePacket:packet];
}

- (void)number:(RBWSend *)send {
    send.identifier = [self.ids takeIDBeside:self];
    [_pending setObject:send forKey:@(send.identifier)];
    // The next life of the application must know which ids the server still holds.
    if (send.qos == RBWQoSExactlyOnce) [self.ids hold:send.identifier beside:self];
}

- (void)deadlineCame:(RBWTimer *)timer {
    RBWSend *send = timer.userInfo;
    // After REC the other side has the message: the promise is kept. REL goes on until COM frees the id on both sides.
    if (send.answer != nil) return [send settle];
    [self forget:send];
    [send failWithError:RBWMakeError(RBWErrorTimeout, [NSString stringWithFormat:@"no answer to a message of type %d", send.type])];
}

- (void)forget:(RBWSend *)send {
    RBW_KEEP(send);
    [send.deadlineTimer invalidate];
    [send.repeatTimer invalidate];
    send.deadlineTimer = nil;
    send.repeatTimer = nil;
    [_sends removeObjectIdenticalTo:send];
    if ([_pending objectForKey:@(send.identifier)] == send) [_pending removeObjectForKey:@(send.identifier)];
}

// In.

- (void)handleAnswer:(RBWPacket *)packet {
    RBWSend *send = [_pending objectForKey:@(packet.identifier)];
    RBW_KEEP(send);
    switch (packet.command) {
        case RBWCommandAck:
            if (send.qos != RBWQoSAtLeastOnce) return;
            [self forget:send];
            [self keepAnswer:packet of:send];
            return [send settle];
        case RBWCommandRec:
            if (send.qos != RBWQoSExactlyOnce) {
                // Given up here, but the server still holds the id.
                return [_writer writePacket:[RBWPacket packetWithCommand:RBWCommandRel identifier:packet.identifier body:nil]];
            }
            if (send.answer == nil) [self keepAnswer:packet of:send];
            return [self transmit:send];
        case RBWCommandCom:
            if (send == nil) return [self.ids letGo:packet.identifier];
            if (send.qos != RBWQoSExactlyOnce || send.answer == nil) return;
            [self.ids letGo:packet.identifier];
            [self forget:send];
            return [send settle];
        default:
            return;
    }
}

- (void)keepAnswer:(RBWPacket *)packet of:(RBWSend *)send {
    send.answer = packet.body;
    send.isRefused = packet.isRefusal;
    send.refusalStatus = packet.status;
}

// Connections.

- (void)resume {
    for (NSNumber *identifier in [self.ids heldIDs]) {
        if ([_pending objectForKey:identifier] != nil) continue;
        [_writer writePacket:[RBWPacket packetWithCommand:RBWCommandRel identifier:identifier.unsignedShortValue body:nil]];
    }
    [self transmitAll];
}

- (void)startAfresh {
    [_pending removeAllObjects];
    NSArray<RBWSend *> *sends = RBW_AUTORELEASE([_sends copy]);
    NSMutableArray<RBWSend *> *answered = [NSMutableArray array];
    for (RBWSend *send in sends) {
        send.identifier = 0;
        send.isWritten = NO;
        if (send.answer != nil) [answered addObject:send];
    }
    for (RBWSend *send in answered) [self forget:send];
    [self transmitAll];
    for (RBWSend *send in answered) [send settle];
}

- (void)transmitAll {
    NSArray<RBWSend *> *sends = RBW_AUTORELEASE([_sends copy]);
    NSMutableArray<RBWSend *> *tooLarge = [NSMutableArray array];
    for (RBWSend *send in sends) {
        if (send.data.length + RBWSendHeaderMax > self.packetBytesMax) [tooLarge addObject:send];
        else [self transmit:send];
    }
    // Completions last: they may send and close.
    for (RBWSend *send in tooLarge) [self failTooLarge:send];
}

- (void)pause {
    for (RBWSend *send in _sends) {
        [send.repeatTimer invalidate];
        send.repeatTimer = nil;
    }
}

- (void)failLargest {
    RBWSend *largest = nil;
    for (RBWSend *send in _sends) {
        BOOL isCandidate = send.isWritten && send.answer == nil;
        if (isCandidate && (largest == nil || send.data.length > largest.data.length)) largest = send;
    }
    if (largest != nil) [self failTooLarge:largest];
}

- (void)failTooLarge:(RBWSend *)send {
    RBW_KEEP(send);
    [self forget:send];
    NSString *what = [NSString stringWithFormat:@"%lu bytes are more than the server takes", (unsigned long)send.data.length];
    [send failWithError:RBWMakeError(RBWErrorTooLarge, what)];
}

- (void)failAllWithError:(NSError *)error {
    NSArray<RBWSend *> *sends = RBW_AUTORELEASE([_sends copy]);
    for (RBWSend *send in sends) [self forget:send];
    for (RBWSend *send in sends) {
        if (send.answer != nil) [send settle];
        else [send failWithError:error];
    }
}

@end
