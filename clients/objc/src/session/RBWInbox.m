#import "RBWInbox.h"
#import "RBWErrors.h"
#import "RBWOwnership.h"
#import "RBWSystem.h"

/// A message in the hands of the application.
@interface RBWDelivery : NSObject {
@private
    NSThread *_thread;
    RBWInbox *_inbox;
    RBWSessionIDs *_ids;
    uint16_t _identifier;
    RBWQoS _qos;
}
/// nil when the application has replied.
@property (nonatomic, strong, nullable) RBWInbox *inbox;
@property (nonatomic, strong) RBWSessionIDs *ids;
@property (nonatomic) uint16_t identifier;
@property (nonatomic) RBWQoS qos;
/// May be called on any thread, and more than once.
- (void)replyWith:(nullable NSData *)body;
@end

@interface RBWInbox ()
- (void)finish:(RBWDelivery *)delivery reply:(NSData *)reply;
@end

@implementation RBWDelivery

@synthesize inbox = _inbox, ids = _ids, identifier = _identifier, qos = _qos;

- (instancetype)init {
    if ((self = [super init])) _thread = RBW_RETAIN([NSThread currentThread]);
    return self;
}

- (void)dealloc {
    RBW_RELEASE(_thread);
    RBW_RELEASE(_inbox);
    RBW_RELEASE(_ids);
    RBW_SUPER_DEALLOC;
}

- (void)replyWith:(NSData *)body {
    BOOL isHere = [NSThread currentThread] == _thread;
    NSData *reply = body == nil ? [NSData data] : RBW_AUTORELEASE([body copy]);
    [self performSelector:@selector(finishWith:) onThread:_thread withObject:reply waitUntilDone:isHere modes:RBWRunLoopModes()];
}

- (void)finishWith:(NSData *)reply {
    RBWInbox *inbox = self.inbox;
    RBW_KEEP(inbox);
    self.inbox = nil;
    [inbox finish:self reply:reply];
}

@end

@implementation RBWInbox

@synthesize ids = _ids;

- (instancetype)initWithTaker:(id<RBWMessageTaker>)taker {
    if ((self = [super init])) {
        _taker = taker;
        _ids = [[RBWSessionIDs alloc] initWithSession:nil storage:nil lastID:0];
    }
    return self;
}

- (void)dealloc {
    RBW_RELEASE(_ids);
    RBW_SUPER_DEALLOC;
}

- (void)detach {
    _taker = nil;
}

- (void)handleMessage:(RBWPacket *)packet {
    if (packet.qos == RBWQoSAtMostOnce) return [self deliver:packet];
    if ([self.ids hasReceived:packet.identifier qos:packet.qos]) {
        NSData *reply = [self.ids replyTo:packet.identifier qos:packet.qos];
        // Without DUP, the id of an answered QoS 1 message names a new one. QoS 2 ids are not free before REL.
        BOOL isRepeat = packet.qos == RBWQoSExactlyOnce || packet.isDuplicate || reply == nil;
        if (isRepeat) {
            if (reply != nil) [self answer:packet.identifier qos:packet.qos reply:reply];
            return;
        }
    }
    if (packet.qos == RBWQoSExactlyOnce && [self.ids isFull]) return [_taker overflowed];
    [self.ids beginReceived:packet.identifier qos:packet.qos];
    [self deliver:packet];
}

- (void)deliver:(RBWPacket *)packet {
    RBWDelivery *delivery = RBW_AUTORELEASE([[RBWDelivery alloc] init]);
    delivery.inbox = self;
    delivery.ids = self.ids;
    delivery.identifier = packet.identifier;
    delivery.qos = packet.qos;
    RBWMessage *message = RBW_AUTORELEASE([[RBWMessage alloc] initWithData:packet.body
                                                                      type:packet.type
                                                                       qos:packet.qos
                                                                identifier:packet.identifier
                                                                 duplicate:packet.isDuplicate]);
    [_taker takeMessage:message reply:^(NSData *body) { [delivery replyWith:body]; }];
}

/// The message is handled: its id is saved, then the server is told.
- (void)finish:(RBWDelivery *)delivery reply:(NSData *)reply {
    if (delivery.qos == RBWQoSAtMostOnce || delivery.ids != self.ids) return;
    // Taken back meanwhile, or the id names another message.
    if (![self.ids hasReceived:delivery.identifier qos:delivery.qos]) return;
    if ([self.ids replyTo:delivery.identifier qos:delivery.qos] != nil) return;
    [self.ids finishReceived:delivery.identifier qos:delivery.qos reply:reply];
    [self answer:delivery.identifier qos:delivery.qos reply:reply];
}

- (void)answer:(uint16_t)identifier qos:(RBWQoS)qos reply:(NSData *)reply {
    if (!_taker.isOpen) return;
    RBWCommand command = qos == RBWQoSAtLeastOnce ? RBWCommandAck : RBWCommandRec;
    [_taker writePacket:[RBWPacket packetWithCommand:command identifier:identifier body:reply]];
}

- (void)handleRelease:(RBWPacket *)packet {
    [self.ids forgetReceived:packet.identifier];
    [_taker writePacket:[RBWPacket packetWithCommand:RBWCommandCom identifier:packet.identifier body:nil]];
}

- (void)resume {
    for (NSNumber *identifier in [self.ids receivedIDs]) {
        NSData *reply = [self.ids replyTo:identifier.unsignedShortValue qos:RBWQoSExactlyOnce];
        if (reply != nil) [self answer:identifier.unsignedShortValue qos:RBWQoSExactlyOnce reply:reply];
    }
}

@end
