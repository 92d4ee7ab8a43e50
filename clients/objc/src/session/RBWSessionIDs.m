#import "RBWSessionIDs.h"
#import "RBWIDTable.h"
#import "RBWJSON.h"
#import "RBWOwnership.h"
#import "RBWPacket.h"

enum {
    /// Ids are reserved in blocks, so that not every send is a write.
    IDBlock = 256,
    /// Own QoS 2 ids that may await REL on the server.
    HeldMax = 1024,
    /// Answers to QoS 1 messages that are kept for repeats: far fewer than ids, so that an id's next use is not taken for one.
    AnswersMax = 1024,
    /// As many of them are saved. QoS 1 allows doubles; these spare most of them.
    AnswersKept = 256,
    /// QoS 2 messages without REL. To forget one would be to hand it on twice.
    ReceivedMax = 16384,
};

static NSDictionary *savedFor(NSString *session, NSString *_Nullable text);
static NSArray<NSNumber *> *handledIn(RBWIDTable *received);
static BOOL isID(id value);

@interface RBWSessionIDs ()
@property (nonatomic, strong, nullable) id<RBWStorage> storage;
@end

@implementation RBWSessionIDs

@synthesize storage = _storage, faults = _faults, session = _session, lastID = _lastID;

- (instancetype)initWithSession:(NSString *)session storage:(id<RBWStorage>)storage lastID:(uint16_t)lastID {
    if ((self = [super init])) {
        _session = [session copy];
        if (session != nil) _storage = RBW_RETAIN(storage);
        _lastID = lastID;
        _held = [[RBWIDTable alloc] init];
        _received[RBWQoSAtLeastOnce] = [[RBWIDTable alloc] init];
        _received[RBWQoSExactlyOnce] = [[RBWIDTable alloc] init];
    }
    return self;
}

+ (RBWSessionIDs *)restoredForSession:(NSString *)session storage:(id<RBWStorage>)storage fraction:(double)fraction {
    NSDictionary *saved = savedFor(session, [storage loadText]);
    // Of a session that is not known here any id may be in use; two lives that begin at 1 would meet at once.
    uint16_t lastID = saved == nil ? (uint16_t)(fraction * RBWPacketIDMax) : (uint16_t)[[saved objectForKey:@"last"] integerValue];
    RBWSessionIDs *ids = RBW_AUTORELEASE([[RBWSessionIDs alloc] initWithSession:session storage:storage lastID:lastID]);
    [ids restore:saved];
    return ids;
}

- (void)restore:(NSDictionary *)saved {
    for (NSNumber *identifier in [saved objectForKey:@"held"]) [_held set:[NSNull null] of:identifier];
    // Replies are not saved: a repeat after a restart is answered with an empty one.
    for (NSNumber *identifier in [saved objectForKey:@"answered"]) [_received[RBWQoSAtLeastOnce] set:[NSData data] of:identifier];
    for (NSNumber *identifier in [saved objectForKey:@"received"]) [_received[RBWQoSExactlyOnce] set:[NSData data] of:identifier];
}

- (void)dealloc {
    RBW_RELEASE(_session);
    RBW_RELEASE(_storage);
    RBW_RELEASE(_held);
    RBW_RELEASE(_received[RBWQoSAtLeastOnce]);
    RBW_RELEASE(_received[RBWQoSExactlyOnce]);
    RBW_SUPER_DEALLOC;
}

- (void)begin {
    [self reserve];
}

// The client's own ids.

- (uint16_t)takeIDBeside:(id<RBWPendingIDs>)pending {
    // It ends: the pending and the held are fewer than the ids.
    do _lastID = _lastID % RBWPacketIDMax + 1;
    while ([pending isPending:_lastID] || [_held valueOf:@(_lastID)] != nil);
    if ([self hasPassedReserved]) [self reserve];
    return _lastID;
}

/// Ids that are in use are skipped, so the last one may be a little beyond the reserved one.
- (BOOL)hasPassedReserved {
    return (_reservedID - _lastID + RBWPacketIDMax) % RBWPacketIDMax >= IDBlock;
}

- (void)hold:(uint16_t)identifier beside:(id<RBWPendingIDs>)pending {
    [_held set:[NSNull null] of:@(identifier)];
    // Given up, and the server has never said a word of them: the oldest are forgotten.
    for (NSNumber *old in _held.count > HeldMax ? _held.ids : @[]) {
        if (_held.count <= HeldMax) break;
        if (![pending isPending:old.unsignedShortValue]) [_held remove:old];
    }
    [self save];
}

- (void)letGo:(uint16_t)identifier {
    if ([_held valueOf:@(identifier)] == nil) return;
    [_held remove:@(identifier)];
    [self save];
}

- (NSArray<NSNumber *> *)heldIDs {
    return _held.ids;
}

// The server's ids.

- (void)beginReceived:(uint16_t)identifier qos:(RBWQoS)qos {
    // Removed first, so that it is the youngest.
    [_received[qos] remove:@(identifier)];
    [_received[qos] set:[NSNull null] of:@(identifier)];
}

- (BOOL)hasReceived:(uint16_t)identifier qos:(RBWQoS)qos {
    return [_received[qos] valueOf:@(identifier)] != nil;
}

- (NSData *)replyTo:(uint16_t)identifier qos:(RBWQoS)qos {
    id reply = [_received[qos] valueOf:@(identifier)];
    return reply == [NSNull null] ? nil : reply;
}

- (void)finishReceived:(uint16_t)identifier qos:(RBWQoS)qos reply:(NSData *)reply {
    [_received[qos] set:reply of:@(identifier)];
    if (qos == RBWQoSAtLeastOnce) [self forgetOldAnswers];
    [self save];
}

/// The oldest first. What is still being handled stays, or its answer would never be given.
- (void)forgetOldAnswers {
    RBWIDTable *answers = _received[RBWQoSAtLeastOnce];
    if (answers.count <= AnswersMax) return;
    for (NSNumber *old in handledIn(answers)) {
        if (answers.count <= AnswersMax) break;
        [answers remove:old];
    }
}

- (void)forgetReceived:(uint16_t)identifier {
    if (![self hasReceived:identifier qos:RBWQoSExactlyOnce]) return;
    [_received[RBWQoSExactlyOnce] remove:@(identifier)];
    [self save];
}

- (NSArray<NSNumber *> *)receivedIDs {
    return handledIn(_received[RBWQoSExactlyOnce]);
}

- (BOOL)isFull {
    return _received[RBWQoSExactlyOnce].count >= ReceivedMax;
}

// The storage.

- (void)reserve {
    _reservedID = (uint16_t)((_lastID + IDBlock - 1) % RBWPacketIDMax + 1);
    [self save];
}

/// Writes everything at once, so that what is said to the server afterwards is true after a restart.
- (void)save {
    if (self.storage == nil) return;
    NSArray<NSNumber *> *answered = handledIn(_received[RBWQoSAtLeastOnce]);
    if (answered.count > AnswersKept) {
        answered = [answered subarrayWithRange:NSMakeRange(answered.count - AnswersKept, AnswersKept)];
    }
    NSDictionary *all = @{
        @"session": self.session,
        @"last": @(_reservedID),
        @"held": _held.ids,
        @"answered": answered,
        @"received": self.receivedIDs,
    };
    NSError *error = nil;
    NSData *data = [NSJSONSerialization dataWithJSONObject:all options:0 error:&error];
    NSString *text = data == nil ? nil : RBW_AUTORELEASE([[NSString alloc] initWithData:data encoding:NSUTF8StringEncoding]);
    if (text != nil && [self.storage saveText:text error:&error]) return;
    // What it holds is old, and would be wrong after a restart: better nothing.
    [self.storage removeText];
    self.storage = nil;
    [self.faults storageFailed:error];
}

/// Those with a reply.
static NSArray<NSNumber *> *handledIn(RBWIDTable *received) {
    NSMutableArray<NSNumber *> *handled = [NSMutableArray array];
    for (NSNumber *identifier in received.ids) {
        if ([received valueOf:identifier] != [NSNull null]) [handled addObject:identifier];
    }
    return handled;
}

/// nil for nothing, for another session, and for what is not one of these texts.
static NSDictionary *savedFor(NSString *session, NSString *text) {
    NSDictionary *saved = text == nil ? nil : RBWJSONFromData([text dataUsingEncoding:NSUTF8StringEncoding]);
    if (![saved isKindOfClass:[NSDictionary class]] || ![session isEqual:[saved objectForKey:@"session"]]) return nil;
    if (!isID([saved objectForKey:@"last"])) return nil;
    for (NSString *name in @[@"held", @"answered", @"received"]) {
        if (![[saved objectForKey:name] isKindOfClass:[NSArray class]]) return nil;
        for (id one in [saved objectForKey:name]) {
            if (!isID(one)) return nil;
        }
    }
    return saved;
}

static BOOL isID(id value) {
    if (![value isKindOfClass:[NSNumber class]]) return NO;
    double number = [value doubleValue];
    return number >= 1 && number <= RBWPacketIDMax && number == (uint16_t)number;
}

@end
