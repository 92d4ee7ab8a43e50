#import <Rainbow/RBWClient.h>
#import <Rainbow/RBWTransport.h>

#import "RBWAddress.h"
#import "RBWErrors.h"
#import "RBWHeartbeat.h"
#import "RBWInbox.h"
#import "RBWOutbox.h"
#import "RBWOwnership.h"
#import "RBWSystem.h"
#import "RBWTimer.h"

static NSString *const Subprotocol = @"rainbow.2";

/// More would not make a wait longer, and 2ⁿ would end.
static const NSInteger FailuresMax = 30;

enum { StatusUnauthorized = 401, StatusForbidden = 403 };

/// One of those who wait for `open`.
@interface RBWOpening : NSObject {
@private
    RBWOpenCompletion _completion;
}
- (instancetype)initWithCompletion:(RBWOpenCompletion)completion;
- (void)completeWithGreeting:(RBWGreeting *)greeting error:(NSError *)error;
@end

@interface RBWClient () <RBWTransportDelegate, RBWMessageTaker, RBWStorageFaults>
@property (nonatomic) RBWState state;
@property (nonatomic, strong, nullable) RBWGreeting *greeting;
@property (nonatomic, strong, nullable) id<RBWTransport> transport;
@property (nonatomic, strong, nullable) NSObject *attempt;
@property (nonatomic, strong, nullable) RBWTimer *attemptTimer;
@property (nonatomic, strong, nullable) RBWTimer *retryTimer;
@property (nonatomic, strong, nullable) RBWTimer *pulseTimer;
@property (nonatomic, strong, nullable) RBWClient *itself;
@end

@implementation RBWClient

@synthesize state = _state, greeting = _greeting, delegate = _delegate, openHandler = _openHandler,
            closeHandler = _closeHandler, messageHandler = _messageHandler, errorHandler = _errorHandler,
            transport = _transport, attempt = _attempt, attemptTimer = _attemptTimer, retryTimer = _retryTimer,
            pulseTimer = _pulseTimer, itself = _itself;

- (instancetype)initWithURL:(NSURL *)url {
    return [self initWithURL:url configuration:nil];
}

- (instancetype)initWithURL:(NSURL *)url configuration:(RBWConfiguration *)configuration {
    NSURL *connectURL = RBWConnectURL(url);
    if (connectURL == nil) [NSException raise:NSInvalidArgumentException format:@"%@ is no ws(s) URL", url];
    if ((self = [super init])) {
        _thread = RBW_RETAIN([NSThread currentThread]);
        _url = [connectURL copy];
        _configuration = configuration == nil ? [[RBWConfiguration alloc] init] : [configuration copy];
        _outbox = [[RBWOutbox alloc] initWithRepeatInterval:_configuration.repeatInterval writer:self];
        _inbox = [[RBWInbox alloc] initWithTaker:self];
        _heartbeat = [[RBWHeartbeat alloc] initWithPongTimeout:_configuration.pongTimeout];
        _openings = [[NSMutableArray alloc] init];
        [self useIDs:RBW_AUTORELEASE([[RBWSessionIDs alloc] initWithSession:nil storage:nil lastID:0])];
    }
    return self;
}

- (void)dealloc {
    // An open client keeps itself, so there is no connection here; there may be sends that waited for `open`.
    [_inbox detach];
    [_outbox failAllWithError:RBWMakeError(RBWErrorClosed, @"the client is gone")];
    _ids.faults = nil;
    RBW_SET_BLOCK(_openHandler, (void (^)(RBWGreeting *))nil);
    RBW_SET_BLOCK(_closeHandler, (void (^)(RBWClosing *))nil);
    RBW_SET_BLOCK(_messageHandler, (RBWMessageHandler)nil);
    RBW_SET_BLOCK(_errorHandler, (void (^)(NSError *))nil);
    RBW_RELEASE(_thread);
    RBW_RELEASE(_url);
    RBW_RELEASE(_configuration);
    RBW_RELEASE(_outbox);
    RBW_RELEASE(_inbox);
    RBW_RELEASE(_heartbeat);
    RBW_RELEASE(_ids);
    RBW_RELEASE(_openings);
    RBW_RELEASE(_greeting);
    RBW_SUPER_DEALLOC;
}

- (void)setOpenHandler:(void (^)(RBWGreeting *))handler {
    RBW_SET_BLOCK(_openHandler, handler);
}

- (void)setCloseHandler:(void (^)(RBWClosing *))handler {
    RBW_SET_BLOCK(_closeHandler, handler);
}

- (void)setMessageHandler:(RBWMessageHandler)handler {
    RBW_SET_BLOCK(_messageHandler, handler);
}

- (void)setErrorHandler:(void (^)(NSError *))handler {
    RBW_SET_BLOCK(_errorHandler, handler);
}

- (NSString *)deviceID {
    return _configuration.deviceID;
}

- (NSUInteger)pendingCount {
    return _outbox.count;
}

/// At once on the client's thread, soon from another.
- (void)perform:(SEL)selector with:(id)object {
    BOOL isHere = [NSThread currentThread] == _thread;
    [self performSelector:selector onThread:_thread withObject:object waitUntilDone:isHere modes:RBWRunLoopModes()];
}

// Open and close.

- (void)open {
    [self openWithCompletion:nil];
}

- (void)openWithCompletion:(RBWOpenCompletion)completion {
    [self perform:@selector(addOpening:) with:RBW_AUTORELEASE([[RBWOpening alloc] initWithCompletion:completion])];
}

- (void)addOpening:(RBWOpening *)opening {
    if (self.state == RBWStateOpen) {
        [RBWTimer timerAfter:0 target:self selector:@selector(isOpenAlready:) userInfo:opening];
        return;
    }
    [_openings addObject:opening];
    _hasEnded = NO;
    self.itself = self;
    [self listenForWake];
    if (self.state == RBWStateClosed || self.state == RBWStateWaiting) [self connect];
}

- (void)isOpenAlready:(RBWTimer *)timer {
    RBWOpening *opening = timer.userInfo;
    if (self.state == RBWStateOpen) [opening completeWithGreeting:self.greeting error:nil];
    else if (self.state == RBWStateClosed) [opening completeWithGreeting:nil error:RBWMakeError(RBWErrorClosed, @"closed")];
    else [_openings addObject:opening];
}

- (void)close {
    [self closeWithCode:1000 reason:@""];
}

- (void)closeWithCode:(NSInteger)code reason:(NSString *)reason {
    [self perform:@selector(closeNow:) with:RBW_AUTORELEASE([[RBWClosing alloc] initWithCode:code reason:reason retryDelay:nil])];
}

- (void)closeNow:(RBWClosing *)closing {
    RBW_KEEP(self);
    BOOL wasClosed = self.state == RBWStateClosed;
    [self dropTransportWithCode:closing.code reason:closing.reason];
    [self endWithError:RBWMakeError(RBWErrorClosed, @"closed by this side")];
    if (!wasClosed) [self tellClosing:closing.code reason:closing.reason retryDelay:nil];
}

- (void)wake {
    [self perform:@selector(wakeNow) with:nil];
}

- (void)wakeNow {
    if (self.state == RBWStateOpen) [self judgePulse];
    else if (self.state == RBWStateWaiting) [self connect];
}

/// UIKit is not linked; its notification is known by name.
- (void)listenForWake {
#if RBW_APPLE
    NSNotificationCenter *center = [NSNotificationCenter defaultCenter];
    [center removeObserver:self];
    [center addObserver:self selector:@selector(wake) name:@"UIApplicationWillEnterForegroundNotification" object:nil];
#endif
}

- (void)endWithError:(NSError *)error {
    self.state = RBWStateClosed;
    _hasEnded = YES;
    _failures = 0;
#if RBW_APPLE
    [[NSNotificationCenter defaultCenter] removeObserver:self];
#endif
    NSArray<RBWOpening *> *openings = [self takeOpenings];
    [_outbox failAllWithError:error];
    for (RBWOpening *opening in openings) [opening completeWithGreeting:nil error:error];
    // Unless a completion has opened it again.
    if (self.state == RBWStateClosed) self.itself = nil;
}

- (NSArray<RBWOpening *> *)takeOpenings {
    NSArray<RBWOpening *> *openings = RBW_AUTORELEASE([_openings copy]);
    [_openings removeAllObjects];
    return openings;
}

// Sending.

- (void)sendText:(NSString *)text type:(uint16_t)type qos:(RBWQoS)qos completion:(RBWSendCompletion)completion {
    [self sendData:[text dataUsingEncoding:NSUTF8StringEncoding] type:type qos:qos completion:completion];
}

- (void)sendJSONObject:(id)object type:(uint16_t)type qos:(RBWQoS)qos completion:(RBWSendCompletion)completion {
    NSError *error = nil;
    NSData *data = [NSJSONSerialization dataWithJSONObject:object options:0 error:&error];
    if (data == nil) [NSException raise:NSInvalidArgumentException format:@"not JSON: %@", error.localizedDescription];
    [self sendData:data type:type qos:qos completion:completion];
}

- (void)sendData:(NSData *)data type:(uint16_t)type qos:(RBWQoS)qos completion:(RBWSendCompletion)completion {
    [self sendData:data type:type qos:qos timeout:_configuration.sendTimeout completion:completion];
}

- (void)sendData:(NSData *)data
            type:(uint16_t)type
             qos:(RBWQoS)qos
         timeout:(NSTimeInterval)timeout
      completion:(RBWSendCompletion)completion {
    if (type == RBWGreetingType) [NSException raise:NSInvalidArgumentException format:@"type 65535 is Rainbow's own"];
    if (qos < RBWQoSAtMostOnce || qos > RBWQoSExactlyOnce) [NSException raise:NSInvalidArgumentException format:@"QoS is 0, 1 or 2"];
    RBWSend *send = RBW_AUTORELEASE([[RBWSend alloc] initWithData:data type:type qos:qos completion:completion]);
    send.timeout = timeout;
    [self perform:@selector(addSend:) with:send];
}

- (void)addSend:(RBWSend *)send {
    NSError *error = [self errorOfSend:send];
    if (error != nil) return [send settleLater:error];
    if (send.qos != RBWQoSAtMostOnce) return [_outbox add:send];
    RBWPacket *packet = [RBWPacket packetWithCommand:RBWCommandSend identifier:0 body:send.data];
    packet.type = send.type;
    [self writePacket:packet];
    [send settleLater:nil];
}

/// Why a message cannot be taken; nil when it can.
- (NSError *)errorOfSend:(RBWSend *)send {
    NSUInteger header = send.qos == RBWQoSAtMostOnce ? RBWSendHeaderMax - 2 : RBWSendHeaderMax;
    if (send.data.length > _outbox.packetBytesMax || send.data.length + header > _outbox.packetBytesMax) {
        NSString *what = [NSString stringWithFormat:@"%lu bytes are more than the server takes", (unsigned long)send.data.length];
        return RBWMakeError(RBWErrorTooLarge, what);
    }
    if (send.qos == RBWQoSAtMostOnce) {
        if (!self.isOpen) return RBWMakeError(RBWErrorClosed, @"not connected; QoS 0 is not kept for later");
        return self.isCongested ? RBWMakeError(RBWErrorFull, @"the connection takes no more now") : nil;
    }
    if (self.state == RBWStateClosed && _hasEnded) return RBWMakeError(RBWErrorClosed, @"not open");
    return _outbox.count >= _configuration.pendingMax ? RBWMakeError(RBWErrorFull, @"too many unanswered messages") : nil;
}

- (void)writePacket:(RBWPacket *)packet {
    // Between the server's close and its arrival here a write is lost; whoever promised repeats it.
    [self.transport sendData:packet.data];
}

- (BOOL)isCongested {
    return self.transport.bufferedBytes > _configuration.bufferedBytesMax;
}

- (BOOL)isOpen {
    return self.state == RBWStateOpen;
}

// Receiving.

- (void)transportDidHear:(id<RBWTransport>)transport {
    if (transport == self.transport) [_heartbeat heardAt:_configuration.clock()];
}

- (void)transport:(id<RBWTransport>)transport didReceiveData:(NSData *)data {
    RBW_KEEP(self);
    if (transport != self.transport) return;
    [_heartbeat heardAt:_configuration.clock()];
    RBWPacket *packet = [RBWPacket packetWithData:data protocol:_speaksProtocol2 ? RBWProtocol2 : RBWProtocolPlain];
    if (packet == nil) return [self violate:@"malformed packet"];
    BOOL isGreeting = packet.command == RBWCommandSend && packet.type == RBWGreetingType;
    if (_speaksProtocol2 && (!self.isOpen || isGreeting)) return [self handleGreeting:isGreeting ? packet : nil];
    switch (packet.command) {
        case RBWCommandSend:
            return [_inbox handleMessage:packet];
        case RBWCommandRel:
            return [_inbox handleRelease:packet];
        case RBWCommandAck:
        case RBWCommandRec:
        case RBWCommandCom:
            return [_outbox handleAnswer:packet];
        case RBWCommandPing:
            return [self writePacket:[RBWPacket packetWithCommand:RBWCommandPong identifier:0 body:nil]];
        case RBWCommandPong:
            return;
    }
}

/// `packet` nil: something else came where a greeting must be.
- (void)handleGreeting:(RBWPacket *)packet {
    RBWGreeting *greeting = self.isOpen || packet == nil ? nil : RBW_AUTORELEASE([[RBWGreeting alloc] initWithData:packet.body]);
    if (greeting == nil) return [self violate:@"bad greeting"];
    [self goOn:greeting];
}

- (void)violate:(NSString *)what {
    [self tellError:RBWMakeError(RBWErrorProtocol, what)];
    [self dropLine:RBWCloseProtocol reason:what];
}

- (void)takeMessage:(RBWMessage *)message reply:(RBWReply)reply {
    id<RBWClientDelegate> delegate = self.delegate;
    if (self.messageHandler != nil) self.messageHandler(message, reply);
    else if ([delegate respondsToSelector:@selector(client:didReceiveMessage:reply:)]) {
        [delegate client:self didReceiveMessage:message reply:reply];
    } else reply(nil);
}

- (void)overflowed {
    [self tellError:RBWMakeError(RBWErrorFull, @"too many messages without REL: one was not taken")];
}

// Attempts.

- (void)connect {
    [self.retryTimer invalidate];
    self.retryTimer = nil;
    self.state = RBWStateConnecting;
    NSObject *attempt = RBW_AUTORELEASE([[NSObject alloc] init]);
    self.attempt = attempt;
    // A server that takes the connection and says no more, or parameters that never come.
    self.attemptTimer = [RBWTimer timerAfter:_configuration.openTimeout target:self selector:@selector(attemptIsOver:) userInfo:nil];
    if (_configuration.parametersProvider == nil) return [self dial:@{}];
    _configuration.parametersProvider(^(NSDictionary<NSString *, NSString *> *parameters, NSError *error) {
        [self perform:@selector(parametersCame:) with:@[attempt, parameters ?: [NSNull null], error ?: [NSNull null]]];
    });
}

/// `came`: the attempt that asked, parameters or NSNull, an error or NSNull.
- (void)parametersCame:(NSArray *)came {
    if (self.attempt != came.firstObject || self.transport != nil) return;
    NSDictionary *parameters = [came objectAtIndex:1];
    NSError *error = came.lastObject;
    if ([parameters isKindOfClass:[NSDictionary class]]) [self dial:parameters];
    else [self parametersFailed:[error isKindOfClass:[NSError class]] ? error : nil];
}

- (void)retryCame:(RBWTimer *)timer {
    (void)timer;
    [self connect];
}

- (void)attemptIsOver:(RBWTimer *)timer {
    (void)timer;
    [self dropLine:RBWCloseDropped reason:@"no answer"];
}

- (void)parametersFailed:(NSError *)error {
    NSString *why = error.localizedDescription ?: @"no parameters";
    [self tellError:RBWMakeError(RBWErrorParameters, why)];
    [self connectionEnded:RBWCloseAbnormal reason:why];
}

- (void)dial:(NSDictionary<NSString *, NSString *> *)made {
    NSMutableDictionary<NSString *, NSString *> *parameters = [NSMutableDictionary dictionary];
    [parameters addEntriesFromDictionary:_configuration.parameters];
    [parameters addEntriesFromDictionary:made];
    [parameters setObject:_configuration.deviceID forKey:@"X-DEVICEID"];
    [parameters setObject:_configuration.platform forKey:@"X-CLIENT-OS"];
    NSMutableURLRequest *request = [NSMutableURLRequest requestWithURL:RBWURLWithParameters(_url, parameters)];
    for (NSString *name in _configuration.headers) [request setValue:[_configuration.headers objectForKey:name] forHTTPHeaderField:name];
    id<RBWTransport> transport = RBW_AUTORELEASE([[_configuration.transportClass alloc] init]);
    self.transport = transport;
    transport.delegate = self;
    [transport openRequest:request
              subprotocols:_configuration.offersSession ? @[Subprotocol] : @[]
          receivedBytesMax:_configuration.receivedBytesMax];
}

- (void)transport:(id<RBWTransport>)transport didOpenWithSubprotocol:(NSString *)subprotocol {
    RBW_KEEP(self);
    if (transport != self.transport) return;
    _speaksProtocol2 = [subprotocol isEqualToString:Subprotocol];
    _isConnected = YES;
    _connectedAt = _configuration.clock();
    // With rainbow.2 the first packet says what was kept, and only then is it known how to go on.
    if (!_speaksProtocol2) [self goOn:RBW_AUTORELEASE([[RBWGreeting alloc] init])];
}

- (void)goOn:(RBWGreeting *)greeting {
    self.state = RBWStateOpen;
    self.greeting = greeting;
    [self.attemptTimer invalidate];
    self.attemptTimer = nil;
    _outbox.packetBytesMax = greeting.messageBytesMax;
    [self recallIDs:greeting];
    [self watch:greeting.heartbeat];
    id<RBWTransport> transport = self.transport;
    NSArray<RBWOpening *> *openings = [self takeOpenings];
    if (greeting.isResumed) {
        [_inbox resume];
        [_outbox resume];
    } else {
        [_outbox startAfresh];
    }
    for (RBWOpening *opening in openings) [opening completeWithGreeting:greeting error:nil];
    // A completion may have closed it.
    if (transport != self.transport) return;
    if (self.openHandler != nil) self.openHandler(greeting);
    id<RBWClientDelegate> delegate = self.delegate;
    if ([delegate respondsToSelector:@selector(client:didOpen:)]) [delegate client:self didOpen:greeting];
}

/// The ids that belong to the session that the server has named.
- (void)recallIDs:(RBWGreeting *)greeting {
    NSString *session = nil;
    // Ids belong to the session that was made under that name, not to the next one of the same name.
    if (greeting.session != nil) session = [NSString stringWithFormat:@"%@/%@", greeting.session, greeting.sessionID ?: @""];
    RBWSessionIDs *ids;
    if (!greeting.isResumed) {
        ids = RBW_AUTORELEASE([[RBWSessionIDs alloc] initWithSession:session storage:_configuration.storage lastID:_ids.lastID]);
    } else if (![_ids.session isEqualToString:session]) {
        ids = [RBWSessionIDs restoredForSession:session storage:_configuration.storage fraction:_configuration.random()];
    } else {
        return;
    }
    [self useIDs:ids];
    [ids begin];
}

- (void)useIDs:(RBWSessionIDs *)ids {
    _ids.faults = nil;
    RBW_RELEASE(_ids);
    _ids = RBW_RETAIN(ids);
    ids.faults = self;
    _outbox.ids = ids;
    _inbox.ids = ids;
}

- (void)storageFailed:(NSError *)error {
    NSString *what = [NSString stringWithFormat:@"ids will not survive a restart: %@", error.localizedDescription];
    [self tellError:RBWMakeError(RBWErrorStorage, what)];
}

// The end of a connection.

- (void)transport:(id<RBWTransport>)transport didCloseWithCode:(NSInteger)code reason:(NSString *)reason {
    if (transport == self.transport) [self connectionEnded:code reason:reason];
}

- (void)transport:(id<RBWTransport>)transport didFailWithStatus:(NSInteger)status {
    if (transport != self.transport) return;
    BOOL isRefusal = status == StatusUnauthorized || status == StatusForbidden;
    NSString *reason = [NSString stringWithFormat:@"HTTP %ld", (long)status];
    [self connectionEnded:isRefusal ? RBWCloseRefused : RBWCloseAbnormal reason:reason];
}

/// Gives the line up: on a dead one the server's close would take minutes.
- (void)dropLine:(NSInteger)code reason:(NSString *)reason {
    [self dropTransportWithCode:code reason:reason];
    [self connectionEnded:code reason:reason];
}

- (void)connectionEnded:(NSInteger)code reason:(NSString *)reason {
    RBW_KEEP(self);
    [self dropTransportWithCode:code reason:reason];
    if (RBWIsFinal(code)) {
        [self endWithError:RBWMakeFinalError(code, reason)];
        return [self tellClosing:code reason:reason retryDelay:nil];
    }
    NSTimeInterval told = RBWRetryAfter(reason);
    NSTimeInterval delay = told < 0 ? [self nextDelay] : told;
    self.state = RBWStateWaiting;
    self.retryTimer = [RBWTimer timerAfter:delay target:self selector:@selector(retryCame:) userInfo:nil];
    [self tellClosing:code reason:reason retryDelay:@(delay)];
    if (code == RBWCloseTooLarge) [_outbox failLargest];
}

/// Leaves nothing of the present connection or attempt, and no timer.
- (void)dropTransportWithCode:(NSInteger)code reason:(NSString *)reason {
    id<RBWTransport> transport = self.transport;
    RBW_KEEP(transport);
    self.transport = nil;
    self.attempt = nil;
    [self.attemptTimer invalidate];
    [self.retryTimer invalidate];
    [self.pulseTimer invalidate];
    self.attemptTimer = nil;
    self.retryTimer = nil;
    self.pulseTimer = nil;
    [_outbox pause];
    if (_isConnected && _configuration.clock() - _connectedAt >= _configuration.stableAfter) _failures = 0;
    _isConnected = NO;
    transport.delegate = nil;
    [transport closeWithCode:code reason:reason];
}

/// Exponential backoff with full jitter: a server that comes back is not met by everyone at once.
- (NSTimeInterval)nextDelay {
    NSTimeInterval longest = MIN(_configuration.backoffMax, _configuration.backoffMin * pow(2, (double)_failures));
    _failures = MIN(_failures + 1, FailuresMax);
    return _configuration.random() * longest;
}

// The heartbeat.

- (void)watch:(NSTimeInterval)heartbeat {
    _heartbeat.heartbeat = heartbeat;
    [self.pulseTimer invalidate];
    self.pulseTimer = nil;
    if (heartbeat <= 0) return;
    [_heartbeat heardAt:_configuration.clock()];
    self.pulseTimer = [RBWTimer timerEvery:_heartbeat.judgeInterval target:self selector:@selector(pulseCame:) userInfo:nil];
}

- (void)pulseCame:(RBWTimer *)timer {
    (void)timer;
    [self judgePulse];
}

/// By the clock: a device that slept has missed its timers.
- (void)judgePulse {
    switch ([_heartbeat judgeAt:_configuration.clock()]) {
        case RBWPulseFine:
            return;
        case RBWPulseAsk:
            return [self writePacket:[RBWPacket packetWithCommand:RBWCommandPing identifier:0 body:nil]];
        case RBWPulseDead:
            return [self dropLine:RBWCloseDropped reason:@"no pong"];
    }
}

// Events.

- (void)tellClosing:(NSInteger)code reason:(NSString *)reason retryDelay:(NSNumber *)retryDelay {
    RBWClosing *closing = RBW_AUTORELEASE([[RBWClosing alloc] initWithCode:code reason:reason retryDelay:retryDelay]);
    if (self.closeHandler != nil) self.closeHandler(closing);
    id<RBWClientDelegate> delegate = self.delegate;
    if ([delegate respondsToSelector:@selector(client:didClose:)]) [delegate client:self didClose:closing];
}

- (void)tellError:(NSError *)error {
    if (self.errorHandler != nil) self.errorHandler(error);
    id<RBWClientDelegate> delegate = self.delegate;
    if ([delegate respondsToSelector:@selector(client:didFail:)]) [delegate client:self didFail:error];
}

@end

@implementation RBWOpening

- (instancetype)initWithCompletion:(RBWOpenCompletion)completion {
    if ((self = [super init])) RBW_SET_BLOCK(_completion, completion);
    return self;
}

- (void)dealloc {
    RBW_SET_BLOCK(_completion, (RBWOpenCompletion)nil);
    RBW_SUPER_DEALLOC;
}

- (void)completeWithGreeting:(RBWGreeting *)greeting error:(NSError *)error {
    if (_completion != nil) _completion(greeting, error);
}

@end
