// The client on a transport without a network: the exchanges that every client plays, and what only a test can bring about.

#import "RBWOwnership.h"
#import "RBWSystem.h"
#import "check.h"
#import "fake.h"

#include <netinet/in.h>
#include <sys/socket.h>
#include <unistd.h>

static NSDictionary *plainGreeting(void) {
    return @{@"session": [NSNull null], @"resumed": [NSNumber numberWithBool:NO], @"waiting": @0};
}

static RBWConfiguration *quick(void) {
    RBWConfiguration *configuration = RBW_AUTORELEASE([[RBWConfiguration alloc] init]);
    configuration.transportClass = [FakeTransport class];
    configuration.deviceID = @"d1";
    configuration.platform = @"test";
    configuration.backoffMin = configuration.backoffMax = 0.001;
    configuration.repeatInterval = 60;
    [FakeTransport forgetAll];
    return configuration;
}

static RBWClient *client(RBWConfiguration *configuration) {
    return RBW_AUTORELEASE([[RBWClient alloc] initWithURL:[NSURL URLWithString:@"ws://localhost"] configuration:configuration]);
}

/// A block that outlives the call which made it.
@interface Box : NSObject {
@public
    RBWSendCompletion _completion;
}
@end

@implementation Box

- (void)dealloc {
    RBW_SET_BLOCK(_completion, (RBWSendCompletion)nil);
    RBW_SUPER_DEALLOC;
}

@end

/// What has happened, as text, in order.
@interface Log : NSObject <RBWClientDelegate> {
@public
    NSMutableArray<NSString *> *_lines;
    NSMutableArray<RBWMessage *> *_messages;
    NSData *_reply;
    NSMutableArray<Box *> *_boxes;
}
- (RBWSendCompletion)completion:(NSString *)tag;
@end

@implementation Log

- (instancetype)init {
    if ((self = [super init])) {
        _lines = [[NSMutableArray alloc] init];
        _messages = [[NSMutableArray alloc] init];
        _reply = [[NSData alloc] init];
        _boxes = [[NSMutableArray alloc] init];
    }
    return self;
}

- (void)dealloc {
    RBW_RELEASE(_lines);
    RBW_RELEASE(_messages);
    RBW_RELEASE(_reply);
    RBW_RELEASE(_boxes);
    RBW_SUPER_DEALLOC;
}

- (void)add:(NSString *)line {
    [_lines addObject:line];
}

- (RBWSendCompletion)completion:(NSString *)tag {
    NSMutableArray<NSString *> *lines = _lines;
    Box *box = RBW_AUTORELEASE([[Box alloc] init]);
    [_boxes addObject:box];
    RBWSendCompletion completion = ^(RBWBody *answer, NSError *error) {
        NSNumber *status = [error.userInfo objectForKey:RBWErrorStatusKey];
        RBWBody *body = answer ?: [error.userInfo objectForKey:RBWErrorBodyKey];
        if (status != nil) [lines addObject:[NSString stringWithFormat:@"%@ refused %@ %@", tag, status, toHex(body.data)]];
        else if (error != nil) [lines addObject:[NSString stringWithFormat:@"%@ failed %ld", tag, (long)error.code]];
        else [lines addObject:[NSString stringWithFormat:@"%@ answered %@", tag, toHex(body.data)]];
    };
    RBW_SET_BLOCK(box->_completion, completion);
    return box->_completion;
}

- (NSString *)take {
    NSString *line = RBW_AUTORELEASE(RBW_RETAIN(_lines.firstObject));
    if (line != nil) [_lines removeObjectAtIndex:0];
    return line;
}

- (void)client:(RBWClient *)client didOpen:(RBWGreeting *)greeting {
    (void)client;
    [self add:[NSString stringWithFormat:@"open %@ %d", greeting.session, greeting.isResumed]];
}

- (void)client:(RBWClient *)client didClose:(RBWClosing *)closing {
    (void)client;
    [self add:[NSString stringWithFormat:@"close %ld %@%@", (long)closing.code, closing.reason, closing.retryDelay == nil ? @" final" : @""]];
}

- (void)client:(RBWClient *)client didReceiveMessage:(RBWMessage *)message reply:(RBWReply)reply {
    (void)client;
    [_messages addObject:message];
    reply(_reply);
}

- (void)client:(RBWClient *)client didFail:(NSError *)error {
    (void)client;
    [self add:[NSString stringWithFormat:@"error %ld", (long)error.code]];
}

@end

static Log *logOf(RBWClient *one) {
    Log *log = RBW_AUTORELEASE([[Log alloc] init]);
    one.delegate = log;
    return log;
}

/// Opened and greeted; nothing of that is left in the log.
static FakeTransport *opened(RBWClient *one, Log *log) {
    [one open];
    FakeTransport *transport = [FakeTransport last];
    [transport greet:plainGreeting()];
    CHECK(one.state == RBWStateOpen);
    [log->_lines removeAllObjects];
    return transport;
}

// The exchanges of the vectors.

@interface Player : NSObject {
    NSDictionary *_exchange;
    RBWClient *_client;
    Log *_log;
    FakeTransport *_line;
    RBWFileStorage *_storage;
    NSString *_lastUp;
}
- (instancetype)initWithExchange:(NSDictionary *)exchange;
- (void)play;
@end

@implementation Player

- (instancetype)initWithExchange:(NSDictionary *)exchange {
    if ((self = [super init])) _exchange = RBW_RETAIN(exchange);
    return self;
}

- (void)dealloc {
    RBW_RELEASE(_exchange);
    RBW_RELEASE(_lastUp);
    RBW_SUPER_DEALLOC;
}

- (BOOL)isSet:(NSString *)name {
    return [[_exchange objectForKey:name] boolValue];
}

- (void)play {
    at([_exchange objectForKey:@"name"]);
    RBWConfiguration *configuration = quick();
    NSString *path = [NSTemporaryDirectory() stringByAppendingPathComponent:RBWRandomHex(8)];
    _storage = RBW_AUTORELEASE([[RBWFileStorage alloc] initWithPath:path]);
    configuration.storage = _storage;
    configuration.offersSession = ![self isSet:@"plain"];
    if ([self isSet:@"repeats"]) configuration.repeatInterval = 0.02;
    _client = client(configuration);
    _log = logOf(_client);
    RBW_RELEASE(_log->_reply);
    _log->_reply = [fromHex([_exchange objectForKey:@"reply"]) copy];
    [_client open];
    _line = [FakeTransport last];
    if ([self isSet:@"plain"]) [self step:@"open" with:nil];
    for (NSDictionary *step in [_exchange objectForKey:@"steps"]) {
        NSString *name = step.allKeys.firstObject;
        [self step:name with:[step objectForKey:name]];
    }
    turn(0.01);
    EQUAL(_log->_messages, (@[]));
    if (![self isSet:@"repeats"]) EQUAL(_line->_sent, (@[]));
    [_client close];
    [_storage removeText];
}

- (void)step:(NSString *)name with:(id)value {
    if ([name isEqualToString:@"greeting"]) [_line greet:value];
    else if ([name isEqualToString:@"open"]) [_line acceptWithSubprotocol:nil];
    else if ([name isEqualToString:@"down"]) [_line receive:value];
    else if ([name isEqualToString:@"up"]) [self expectUp:value];
    else if ([name isEqualToString:@"send"]) [self send:value];
    else if ([name isEqualToString:@"message"]) [self expectMessage:value];
    else if ([name isEqualToString:@"state"]) [self expectState:value];
    else if ([name isEqualToString:@"cut"]) [self cut];
    else if ([name isEqualToString:@"answered"]) {
        [self expect:[NSString stringWithFormat:@"%@ answered %@", [value objectForKey:@"tag"], [value objectForKey:@"body"]]];
    } else if ([name isEqualToString:@"refused"]) {
        [self expect:[NSString stringWithFormat:@"%@ refused %@ %@", [value objectForKey:@"tag"], [value objectForKey:@"status"],
                                                [value objectForKey:@"body"]]];
    } else {
        EQUAL(name, @"a step");
    }
}

- (void)send:(NSDictionary *)fields {
    [_client sendData:fromHex([fields objectForKey:@"body"])
                 type:(uint16_t)[[fields objectForKey:@"type"] integerValue]
                  qos:[[fields objectForKey:@"qos"] integerValue]
           completion:[_log completion:[fields objectForKey:@"tag"]]];
}

- (void)expectUp:(NSString *)wanted {
    NSString *found = nil;
    do {
        if (_line->_sent.count == 0) UNTIL(_line->_sent.count > 0);
        found = [_line takeSent];
    } while ([self isSet:@"repeats"] && found != nil && ![found isEqual:wanted] && [found isEqual:_lastUp]);
    EQUAL(found, wanted);
    RBW_RELEASE(_lastUp);
    _lastUp = [wanted copy];
}

- (void)expectMessage:(NSDictionary *)wanted {
    RBWMessage *message = _log->_messages.firstObject;
    id identifier = message.identifier == 0 ? [NSNull null] : @(message.identifier);
    NSDictionary *found = @{@"type": @(message.type), @"qos": @(message.qos), @"id": identifier, @"body": toHex(message.data ?: [NSData data])};
    EQUAL(found, wanted);
    if (message != nil) [_log->_messages removeObjectAtIndex:0];
}

- (void)expectState:(NSDictionary *)wanted {
    NSData *data = [[_storage loadText] dataUsingEncoding:NSUTF8StringEncoding];
    NSDictionary *kept = [NSJSONSerialization JSONObjectWithData:data options:0 error:NULL];
    for (NSString *name in wanted) EQUAL([kept objectForKey:name], [wanted objectForKey:name]);
}

- (void)expect:(NSString *)line {
    UNTIL([_log->_lines containsObject:line]);
    [_log->_lines removeObject:line];
}

- (void)cut {
    NSUInteger before = [FakeTransport all].count;
    [_line endWithCode:1006 reason:@"cut"];
    UNTIL([FakeTransport all].count > before);
    _line = [FakeTransport last];
}

@end

static void exchanges_are_as_the_vectors_say(void) {
    NSArray *exchanges = [vectors(@"exchanges.json") objectForKey:@"exchanges"];
    CHECK(exchanges.count >= 25);
    for (NSDictionary *exchange in exchanges) {
        @autoreleasepool {
            [RBW_AUTORELEASE([[Player alloc] initWithExchange:exchange]) play];
        }
    }
}

// What a client asks for, and when it comes back.

static void the_request_says_who_connects(void) {
    RBWConfiguration *configuration = quick();
    configuration.parameters = @{@"token": @"a b"};
    configuration.headers = @{@"X-More": @"yes"};
    RBWClient *one = client(configuration);
    [one open];
    FakeTransport *transport = [FakeTransport last];
    EQUAL(transport->_request.URL.absoluteString, @"ws://localhost/connect/?X-CLIENT-OS=test&X-DEVICEID=d1&token=a%20b");
    EQUAL([transport->_request valueForHTTPHeaderField:@"X-More"], @"yes");
    EQUAL(transport->_subprotocols, (@[@"rainbow.2"]));
    [one close];
}

static void waits_double_up_to_the_longest(void) {
    RBWConfiguration *configuration = quick();
    configuration.backoffMin = 0.5;
    configuration.backoffMax = 30;
    configuration.random = ^{ return 1.0; };
    __block NSTimeInterval now = 100;
    configuration.clock = ^{ return now; };
    RBWClient *one = client(configuration);
    NSMutableArray<NSNumber *> *delays = [NSMutableArray array];
    one.closeHandler = ^(RBWClosing *closing) { [delays addObject:closing.retryDelay ?: @-1]; };
    [one open];
    for (int failures = 0; failures < 9; failures++) {
        [[FakeTransport last] endWithCode:1006 reason:@""];
        [one wake];
    }
    EQUAL(delays, (@[@0.5, @1, @2, @4, @8, @16, @30, @30, @30]));
    [delays removeAllObjects];
    // A connection of less than `stableAfter` does not end the row; a longer one does.
    [[FakeTransport last] greet:plainGreeting()];
    now += 4.9;
    [[FakeTransport last] endWithCode:1006 reason:@""];
    [one wake];
    [[FakeTransport last] greet:plainGreeting()];
    now += 5;
    [[FakeTransport last] endWithCode:1006 reason:@""];
    EQUAL(delays, (@[@30, @0.5]));
    [one close];
}

static void a_server_that_goes_away_says_when_to_come_back(void) {
    RBWConfiguration *configuration = quick();
    configuration.backoffMin = 0.5;
    configuration.backoffMax = 30;
    configuration.random = ^{ return 1.0; };
    RBWClient *one = client(configuration);
    NSMutableArray<NSNumber *> *delays = [NSMutableArray array];
    one.closeHandler = ^(RBWClosing *closing) { [delays addObject:closing.retryDelay ?: @-1]; };
    [one open];
    NSArray<NSString *> *reasons = @[
        @"going away; retry_after=1.250", @"retry_after=2", @"bye; retry_after=99999", @"retry_after=-1", @"retry_after=",
        @"no_retry_after=1", @"retry_after=1 s", @"retry_after=1.2.3",
    ];
    for (NSString *reason in reasons) {
        [[FakeTransport last] endWithCode:1001 reason:reason];
        [one wake];
    }
    // What was told is no failure of the row; what says nothing is.
    EQUAL(delays, (@[@1.25, @2, @60, @0.5, @1, @2, @4, @8]));
    [one close];
}

static void close_codes_are_final_or_not(void) {
    for (NSNumber *code in @[@4401, @4409, @4500, @4502, @4504, @4999]) {
        RBWClient *one = client(quick());
        Log *log = logOf(one);
        FakeTransport *transport = opened(one, log);
        [transport endWithCode:code.integerValue reason:@"why"];
        CHECK(one.state == RBWStateClosed);
        EQUAL([log take], ([NSString stringWithFormat:@"close %@ why final", code]));
    }
    for (NSNumber *code in @[@1000, @1001, @1002, @1005, @1006, @1008, @1009, @1011, @1013, @4000, @4403, @4499, @4503]) {
        RBWClient *one = client(quick());
        Log *log = logOf(one);
        FakeTransport *transport = opened(one, log);
        [transport endWithCode:code.integerValue reason:@"why"];
        CHECK(one.state == RBWStateWaiting);
        EQUAL([log take], ([NSString stringWithFormat:@"close %@ why", code]));
        [one close];
    }
}

static void a_refusal_tells_why_and_ends_what_waits(void) {
    RBWClient *one = client(quick());
    Log *log = logOf(one);
    __block NSInteger opensFailed = 0;
    for (int times = 0; times < 2; times++) {
        [one openWithCompletion:^(RBWGreeting *greeting, NSError *error) {
            CHECK(greeting == nil && error.code == RBWErrorRefused);
            EQUAL([error.userInfo objectForKey:RBWErrorReasonKey], @"no such user");
            EQUAL([error.userInfo objectForKey:RBWErrorCloseCodeKey], @4401);
            opensFailed++;
        }];
    }
    [one sendText:@"hi" type:1 qos:RBWQoSExactlyOnce completion:[log completion:@"a"]];
    CHECK([FakeTransport all].count == 1);
    [[FakeTransport last] acceptWithSubprotocol:@"rainbow.2"];
    [[FakeTransport last] endWithCode:4401 reason:@"no such user"];
    CHECK(opensFailed == 2);
    EQUAL(log->_lines, (@[@"a failed 5", @"close 4401 no such user final"]));
    [log->_lines removeAllObjects];
    [one sendText:@"hi" type:1 qos:RBWQoSAtLeastOnce completion:[log completion:@"b"]];
    EQUAL(log->_lines, (@[]));
    UNTIL(log->_lines.count > 0);
    EQUAL([log take], @"b failed 3");
    // A later `open` tries again.
    opened(one, log);
    CHECK([FakeTransport all].count == 2);
    [one close];
}

static void http_401_and_403_are_refusals_and_others_are_not(void) {
    for (NSNumber *status in @[@401, @403, @200, @404, @503]) {
        RBWClient *one = client(quick());
        [one open];
        [[FakeTransport last].delegate transport:[FakeTransport last] didFailWithStatus:status.integerValue];
        BOOL isFinal = status.integerValue == 401 || status.integerValue == 403;
        CHECK(one.state == (isFinal ? RBWStateClosed : RBWStateWaiting));
        [one close];
    }
}

// Parameters.

static void parameters_that_fail_are_a_failed_attempt(void) {
    RBWConfiguration *configuration = quick();
    __block int calls = 0;
    configuration.parametersProvider = ^(RBWParametersReply reply) {
        calls++;
        if (calls == 1) reply(nil, [NSError errorWithDomain:NSPOSIXErrorDomain code:1 userInfo:nil]);
        else reply(@{@"token": @(calls).stringValue}, nil);
        // A second answer does nothing.
        reply(@{@"token": @"late"}, nil);
    };
    RBWClient *one = client(configuration);
    Log *log = logOf(one);
    [one open];
    CHECK([FakeTransport all].count == 0);
    EQUAL([log take], @"error 8");
    CHECK([[log take] hasPrefix:@"close 1006"]);
    UNTIL([FakeTransport all].count == 1);
    CHECK([[FakeTransport last]->_request.URL.query rangeOfString:@"token=2"].length > 0);
    [one close];
}

static void elsewhere(void (^work)(void));

static void parameters_may_come_later_and_from_another_thread(void) {
    RBWConfiguration *configuration = quick();
    __block RBWParametersReply kept = nil;
    configuration.parametersProvider = ^(RBWParametersReply reply) { RBW_SET_BLOCK(kept, reply); };
    RBWClient *one = client(configuration);
    [one open];
    elsewhere(^{ kept(@{@"token": @"late"}, nil); });
    UNTIL([FakeTransport all].count == 1);
    CHECK([[FakeTransport last]->_request.URL.query hasSuffix:@"token=late"]);
    // The next attempt has asked for its own: an answer to the last one is too late.
    [[FakeTransport last] endWithCode:1006 reason:@""];
    RBWParametersReply old = nil;
    RBW_SET_BLOCK(old, kept);
    [one wake];
    old(@{@"token": @"old"}, nil);
    CHECK([FakeTransport all].count == 1);
    kept(@{@"token": @"new"}, nil);
    CHECK([[FakeTransport last]->_request.URL.query hasSuffix:@"token=new"]);
    [one close];
    RBW_SET_BLOCK(old, (RBWParametersReply)nil);
    RBW_SET_BLOCK(kept, (RBWParametersReply)nil);
}

static void parameters_that_never_come_are_given_up(void) {
    RBWConfiguration *configuration = quick();
    __block int calls = 0;
    configuration.openTimeout = 0.05;
    configuration.parametersProvider = ^(RBWParametersReply reply) {
        (void)reply;
        calls++;
    };
    RBWClient *one = client(configuration);
    [one open];
    UNTIL(calls >= 3);
    CHECK([FakeTransport all].count == 0);
    [one close];
    int then = calls;
    turn(0.15);
    CHECK(calls == then);
}

static void an_attempt_without_greeting_is_given_up(void) {
    RBWConfiguration *configuration = quick();
    configuration.openTimeout = 0.05;
    RBWClient *one = client(configuration);
    [one open];
    FakeTransport *first = [FakeTransport last];
    [first acceptWithSubprotocol:@"rainbow.2"];
    UNTIL([FakeTransport all].count >= 2);
    CHECK(first->_closeCode == 4000);
    [one close];
}

// Sends.

static void what_is_sent_before_open_waits_for_it(void) {
    RBWClient *one = client(quick());
    Log *log = logOf(one);
    [one sendText:@"hi" type:1 qos:RBWQoSAtLeastOnce completion:[log completion:@"a"]];
    CHECK(one.pendingCount == 1);
    FakeTransport *transport = opened(one, log);
    EQUAL([transport takeSent], @"12000100016869");
    [transport receive:@"20000179"];
    EQUAL([log take], @"a answered 79");
    CHECK(one.pendingCount == 0);
    [one close];
}

static void what_cannot_be_sent_fails_on_the_next_turn(void) {
    RBWConfiguration *configuration = quick();
    configuration.pendingMax = 2;
    RBWClient *one = client(configuration);
    Log *log = logOf(one);
    [one sendText:@"" type:1 qos:RBWQoSAtMostOnce completion:[log completion:@"early"]];
    [one open];
    [[FakeTransport last] greet:@{@"resumed": [NSNumber numberWithBool:NO], @"message_bytes_max": @10}];
    [log->_lines removeAllObjects];
    [one sendText:@"123456" type:1 qos:RBWQoSExactlyOnce completion:[log completion:@"large"]];
    for (int sends = 0; sends < 3; sends++) [one sendText:@"1" type:1 qos:RBWQoSAtLeastOnce completion:[log completion:@(sends).stringValue]];
    [FakeTransport last]->_bufferedBytes = configuration.bufferedBytesMax + 1;
    [one sendText:@"" type:1 qos:RBWQoSAtMostOnce completion:[log completion:@"stuck"]];
    EQUAL(log->_lines, (@[]));
    UNTIL(log->_lines.count == 4);
    EQUAL(log->_lines, (@[@"early failed 3", @"large failed 2", @"2 failed 4", @"stuck failed 4"]));
    CHECK([FakeTransport last]->_sent.count == 2);
    [one close];
    for (NSNumber *qos in @[@-1, @3]) {
        BOOL hasRaised = NO;
        @try {
            [one sendText:@"" type:1 qos:qos.integerValue completion:nil];
        } @catch (NSException *exception) {
            hasRaised = YES;
        }
        CHECK(hasRaised);
    }
}

static void a_send_times_out_and_its_late_answer_is_released(void) {
    RBWClient *one = client(quick());
    Log *log = logOf(one);
    FakeTransport *transport = opened(one, log);
    [one sendData:[NSData data] type:1 qos:RBWQoSExactlyOnce timeout:0.02 completion:[log completion:@"a"]];
    UNTIL(log->_lines.count > 0);
    EQUAL([log take], @"a failed 1");
    EQUAL([transport takeSent], @"1400010001");
    [transport receive:@"300001"];
    EQUAL([transport takeSent], @"400001");
    [transport receive:@"500001"];
    // After REC the promise is kept, whenever COM comes.
    [one sendData:[NSData data] type:1 qos:RBWQoSExactlyOnce timeout:0.02 completion:[log completion:@"b"]];
    [transport receive:@"30000279"];
    UNTIL(log->_lines.count > 0);
    EQUAL([log take], @"b answered 79");
    [one close];
    turn(0.01);
    EQUAL(log->_lines, (@[@"close 1000  final"]));
}

static void a_completion_may_close_and_send(void) {
    RBWClient *one = client(quick());
    Log *log = logOf(one);
    FakeTransport *transport = opened(one, log);
    [one sendText:@"1" type:1 qos:RBWQoSAtLeastOnce completion:^(RBWBody *answer, NSError *error) {
        (void)answer, (void)error;
        [one sendText:@"3" type:1 qos:RBWQoSAtLeastOnce completion:[log completion:@"c"]];
        [one close];
    }];
    [one sendText:@"2" type:1 qos:RBWQoSAtLeastOnce completion:[log completion:@"b"]];
    [transport receive:@"200001"];
    EQUAL(log->_lines, (@[@"b failed 3", @"c failed 3", @"close 1000  final"]));
    CHECK(one.state == RBWStateClosed && transport->_closeCode == 1000);
    // Nobody listens any more.
    [transport receive:@"200002"];
    [transport endWithCode:1006 reason:@""];
    CHECK(one.state == RBWStateClosed && log->_lines.count == 3);
}

static void a_completion_of_open_may_close(void) {
    RBWClient *one = client(quick());
    Log *log = logOf(one);
    [one openWithCompletion:^(RBWGreeting *greeting, NSError *error) {
        CHECK(greeting != nil && error == nil);
        [one close];
    }];
    [[FakeTransport last] greet:plainGreeting()];
    EQUAL(log->_lines, (@[@"close 1000  final"]));
    CHECK(one.state == RBWStateClosed && [FakeTransport last]->_closeCode == 1000);
}

static void the_largest_goes_after_1009_and_is_not_repeated(void) {
    RBWClient *one = client(quick());
    Log *log = logOf(one);
    FakeTransport *transport = opened(one, log);
    [one sendText:@"1" type:1 qos:RBWQoSAtLeastOnce completion:[log completion:@"small"]];
    [one sendText:@"123" type:1 qos:RBWQoSExactlyOnce completion:[log completion:@"large"]];
    [transport endWithCode:1009 reason:@""];
    EQUAL(log->_lines, (@[@"close 1009 ", @"large failed 2"]));
    UNTIL([FakeTransport all].count == 2);
    [[FakeTransport last] greet:plainGreeting()];
    EQUAL([FakeTransport last]->_sent, (@[@"120001000331"]));
    [one close];
}

static void a_completion_may_open_again(void) {
    RBWClient *one = client(quick());
    Log *log = logOf(one);
    opened(one, log);
    [one sendText:@"1" type:1 qos:RBWQoSAtLeastOnce completion:^(RBWBody *answer, NSError *error) {
        (void)answer, (void)error;
        [one open];
    }];
    [one close];
    CHECK(one.state == RBWStateConnecting && [FakeTransport all].count == 2);
    [[FakeTransport last] greet:plainGreeting()];
    CHECK(one.state == RBWStateOpen);
    [one close];
}

static void a_stuck_line_gets_no_repeats(void) {
    RBWConfiguration *configuration = quick();
    configuration.repeatInterval = 0.01;
    RBWClient *one = client(configuration);
    FakeTransport *transport = opened(one, logOf(one));
    transport->_bufferedBytes = configuration.bufferedBytesMax + 1;
    [one sendText:@"1" type:1 qos:RBWQoSAtLeastOnce completion:nil];
    turn(0.05);
    CHECK(transport->_sent.count == 1);
    transport->_bufferedBytes = 0;
    UNTIL(transport->_sent.count >= 3);
    [one close];
}

// Messages.

static void a_reply_may_come_later_and_counts_once(void) {
    RBWClient *one = client(quick());
    Log *log = logOf(one);
    FakeTransport *transport = opened(one, log);
    __block RBWReply kept = nil;
    one.messageHandler = ^(RBWMessage *message, RBWReply reply) {
        CHECK(message.qos == RBWQoSExactlyOnce && !message.isDuplicate && message.identifier <= 2);
        RBW_SET_BLOCK(kept, reply);
    };
    [transport receive:@"140007000161"];
    [transport receive:@"1c0007000161"];
    CHECK(transport->_sent.count == 0);
    kept(fromHex(@"79"));
    kept(fromHex(@"7a"));
    EQUAL(transport->_sent, (@[@"30000179"]));
    [transport->_sent removeAllObjects];
    [transport receive:@"400001"];
    EQUAL(transport->_sent, (@[@"500001"]));
    // A reply after the end is nobody's.
    [transport receive:@"140007000261"];
    [one close];
    kept(nil);
    EQUAL(transport->_sent, (@[@"500001"]));
    RBW_SET_BLOCK(kept, (RBWReply)nil);
}

static void a_reply_of_another_session_is_not_sent(void) {
    RBWClient *one = client(quick());
    Log *log = logOf(one);
    FakeTransport *transport = opened(one, log);
    __block RBWReply kept = nil;
    one.messageHandler = ^(RBWMessage *message, RBWReply reply) {
        (void)message;
        RBW_SET_BLOCK(kept, reply);
    };
    [transport receive:@"140007000161"];
    [transport endWithCode:1006 reason:@""];
    UNTIL([FakeTransport all].count == 2);
    [[FakeTransport last] greet:plainGreeting()];
    kept(nil);
    EQUAL([FakeTransport last]->_sent, (@[]));
    [one close];
    RBW_SET_BLOCK(kept, (RBWReply)nil);
}

static void what_breaks_the_protocol_ends_the_connection(void) {
    for (NSString *hex in @[@"", @"00", @"2000", @"10ffff7b7d", @"7000", @"2100017a"]) {
        at(hex);
        RBWClient *one = client(quick());
        Log *log = logOf(one);
        FakeTransport *transport = opened(one, log);
        [transport receive:hex];
        CHECK(one.state == RBWStateWaiting && transport->_closeCode == 4002);
        EQUAL([log take], @"error 6");
        CHECK([[log take] hasPrefix:@"close 4002"]);
        [one close];
    }
    RBWClient *one = client(quick());
    [one open];
    [[FakeTransport last] acceptWithSubprotocol:@"rainbow.2"];
    [[FakeTransport last] receive:@"1000016869"];
    CHECK(one.state == RBWStateWaiting);
    [one close];
}

static void a_silent_line_is_asked_and_dropped_by_the_clock(void) {
    RBWConfiguration *configuration = quick();
    __block NSTimeInterval now = 1000;
    configuration.clock = ^{ return now; };
    configuration.random = ^{ return 0.0; };
    RBWClient *one = client(configuration);
    Log *log = logOf(one);
    [one open];
    FakeTransport *transport = [FakeTransport last];
    [transport greet:@{@"resumed": [NSNumber numberWithBool:NO], @"heartbeat": @20}];
    [log->_lines removeAllObjects];
    now += 19;
    [one wake];
    EQUAL(transport->_sent, (@[]));
    now += 1;
    [one wake];
    EQUAL([transport takeSent], @"60");
    now += 5;
    [transport receive:@"70"];
    // The server may ask, too.
    [transport receive:@"60"];
    EQUAL([transport takeSent], @"70");
    now += 600;
    [one wake];
    EQUAL([transport takeSent], @"60");
    now += 7;
    [one wake];
    EQUAL([log take], @"close 4000 no pong");
    CHECK(transport->_closeCode == 4000 && one.state == RBWStateWaiting);
    [one close];
}

// Threads.

/// Runs a block on a thread of its own.
@interface Worker : NSObject {
@public
    void (^_work)(void);
    BOOL _isDone;
}
@end

@implementation Worker

- (void)run {
    @autoreleasepool {
        _work();
        _isDone = YES;
    }
}

- (void)dealloc {
    RBW_SET_BLOCK(_work, (void (^)(void))nil);
    RBW_SUPER_DEALLOC;
}

@end

static void elsewhere(void (^work)(void)) {
    Worker *worker = RBW_AUTORELEASE([[Worker alloc] init]);
    RBW_SET_BLOCK(worker->_work, work);
    [NSThread detachNewThreadSelector:@selector(run) toTarget:worker withObject:nil];
    UNTIL(worker->_isDone);
}

static void methods_and_replies_may_come_from_another_thread(void) {
    RBWClient *one = client(quick());
    NSThread *here = [NSThread currentThread];
    NSMutableArray<NSString *> *lines = [NSMutableArray array];
    void (^add)(NSString *) = ^(NSString *line) {
        CHECK([NSThread currentThread] == here);
        [lines addObject:line];
    };
    __block RBWReply kept = nil;
    one.messageHandler = ^(RBWMessage *message, RBWReply reply) {
        add(message.text);
        RBW_SET_BLOCK(kept, reply);
    };
    one.closeHandler = ^(RBWClosing *closing) { add([NSString stringWithFormat:@"close %ld", (long)closing.code]); };
    elsewhere(^{
        [one openWithCompletion:^(RBWGreeting *greeting, NSError *error) { add(greeting == nil ? error.description : @"open"); }];
        [one sendText:@"hi" type:1 qos:RBWQoSAtLeastOnce completion:^(RBWBody *answer, NSError *error) {
            add(answer == nil ? error.description : answer.text);
        }];
    });
    UNTIL([FakeTransport all].count == 1 && one.pendingCount == 1);
    FakeTransport *transport = [FakeTransport last];
    [transport greet:plainGreeting()];
    EQUAL([transport takeSent], @"12000100016869");
    [transport receive:@"20000179"];
    [transport receive:@"140007000161"];
    elsewhere(^{
        kept(fromHex(@"62"));
        kept(nil);
    });
    UNTIL(transport->_sent.count == 1);
    EQUAL([transport takeSent], @"30000162");
    elsewhere(^{ [one close]; });
    UNTIL(one.state == RBWStateClosed);
    EQUAL(lines, (@[@"open", @"y", @"a", @"close 1000"]));
    RBW_SET_BLOCK(kept, (RBWReply)nil);
}

// Ownership.

/// Counts those that are alive.
@interface Probe : NSObject
@end

static int probes;

@implementation Probe

- (instancetype)init {
    if ((self = [super init])) probes++;
    return self;
}

- (void)dealloc {
    probes--;
    RBW_SUPER_DEALLOC;
}

@end

static RBWClient *probed(void) {
    RBWClient *one = client(quick());
    Probe *probe = RBW_AUTORELEASE([[Probe alloc] init]);
    one.messageHandler = ^(RBWMessage *message, RBWReply reply) {
        (void)message, (void)probe;
        reply(nil);
    };
    return one;
}

static void an_open_client_lives_until_it_is_closed(void) {
    __unsafe_unretained RBWClient *one = nil;
    @autoreleasepool {
        one = probed();
        [one open];
        [[FakeTransport last] greet:@{@"resumed": [NSNumber numberWithBool:NO], @"heartbeat": @20}];
    }
    turn(0.01);
    CHECK(probes == 1 && one.state == RBWStateOpen);
    @autoreleasepool {
        [one sendText:@"1" type:1 qos:RBWQoSExactlyOnce completion:nil];
        [[FakeTransport last] receive:@"140007000161"];
        [one close];
    }
    [FakeTransport forgetAll];
    turn(0.01);
    CHECK(probes == 0);
}

static void a_client_that_never_opened_goes_and_fails_its_sends(void) {
    NSMutableArray<NSNumber *> *codes = [NSMutableArray array];
    @autoreleasepool {
        RBWClient *one = probed();
        [one sendText:@"1" type:1 qos:RBWQoSExactlyOnce completion:^(RBWBody *answer, NSError *error) {
            (void)answer;
            [codes addObject:@(error.code)];
        }];
    }
    turn(0.01);
    CHECK(probes == 0);
    EQUAL(codes, (@[@(RBWErrorClosed)]));
}

static void a_refused_client_goes(void) {
    @autoreleasepool {
        RBWClient *one = probed();
        [one open];
        [[FakeTransport last] endWithCode:4401 reason:@""];
    }
    [FakeTransport forgetAll];
    turn(0.01);
    CHECK(probes == 0);
}

#if defined(GNUSTEP)
static void nothing_is_left_behind(void) {
    NSArray<NSString *> *names = @[
        @"RBWClient", @"RBWConfiguration", @"RBWGreeting", @"RBWClosing", @"RBWMessage", @"RBWBody", @"RBWOpening", @"RBWOutbox", @"RBWInbox",
        @"RBWSend", @"RBWDelivery", @"RBWPacket", @"RBWSessionIDs", @"RBWIDTable", @"RBWHeartbeat", @"RBWTimer", @"RBWFileStorage",
    ];
    GSDebugAllocationActive(YES);
    @autoreleasepool {
        exchanges_are_as_the_vectors_say();
        a_refusal_tells_why_and_ends_what_waits();
        what_cannot_be_sent_fails_on_the_next_turn();
        a_completion_may_close_and_send();
        a_reply_may_come_later_and_counts_once();
        a_reply_of_another_session_is_not_sent();
        parameters_that_never_come_are_given_up();
        [FakeTransport forgetAll];
    }
    turn(0.01);
    for (NSString *name in names) {
        at(name);
        CHECK(GSDebugAllocationTotal(NSClassFromString(name)) > 0);
        EQUAL(@(GSDebugAllocationCount(NSClassFromString(name))), @0);
    }
    GSDebugAllocationActive(NO);
}
#endif

#if defined(GNUSTEP)
/// A name with two addresses. At the first one nobody listens.
@interface TwoHosts : RBWStreamTransport
@end

@interface RBWStreamTransport (Private)
- (void)resolverDidFind:(NSArray<NSHost *> *)hosts;
@end

@implementation TwoHosts

- (void)resolve {
    [self resolverDidFind:@[[NSHost hostWithAddress:@"127.0.0.2"], [NSHost hostWithAddress:@"127.0.0.1"]]];
}

@end

static void the_next_address_is_tried_where_nobody_answers(void) {
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t length = sizeof address;
    int listener = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
    CHECK(bind(listener, (struct sockaddr *)&address, length) == 0 && listen(listener, 1) == 0);
    CHECK(getsockname(listener, (struct sockaddr *)&address, &length) == 0);
    RBWConfiguration *configuration = quick();
    configuration.transportClass = [TwoHosts class];
    NSString *url = [NSString stringWithFormat:@"ws://two.example:%d", ntohs(address.sin_port)];
    RBWClient *one = RBW_AUTORELEASE([[RBWClient alloc] initWithURL:[NSURL URLWithString:url] configuration:configuration]);
    __block int ends = 0;
    one.closeHandler = ^(RBWClosing *closing) {
        (void)closing;
        ends++;
    };
    [one open];
    __block int accepted = -1;
    UNTIL((accepted = accept(listener, NULL, NULL)) >= 0);
    char start[4] = "";
    UNTIL(recv(accepted, start, 3, MSG_DONTWAIT) == 3);
    CHECK(strcmp(start, "GET") == 0 && ends == 0);
    [one close];
    close(accepted);
    close(listener);
}
#endif

static void a_url_that_is_none_raises(void) {
    for (NSString *url in @[@"ftp://x", @"nowhere"]) {
        BOOL hasRaised = NO;
        @try {
            (void)RBW_AUTORELEASE([[RBWClient alloc] initWithURL:[NSURL URLWithString:url]]);
        } @catch (NSException *exception) {
            hasRaised = [exception.name isEqualToString:NSInvalidArgumentException];
        }
        CHECK(hasRaised);
    }
}

int main(void) {
    @autoreleasepool {
        const Test tests[] = {
            TEST(exchanges_are_as_the_vectors_say),
            TEST(the_request_says_who_connects),
            TEST(waits_double_up_to_the_longest),
            TEST(a_server_that_goes_away_says_when_to_come_back),
            TEST(close_codes_are_final_or_not),
            TEST(a_refusal_tells_why_and_ends_what_waits),
            TEST(http_401_and_403_are_refusals_and_others_are_not),
            TEST(parameters_that_fail_are_a_failed_attempt),
            TEST(parameters_may_come_later_and_from_another_thread),
            TEST(parameters_that_never_come_are_given_up),
            TEST(an_attempt_without_greeting_is_given_up),
            TEST(what_is_sent_before_open_waits_for_it),
            TEST(what_cannot_be_sent_fails_on_the_next_turn),
            TEST(a_send_times_out_and_its_late_answer_is_released),
            TEST(a_completion_may_close_and_send),
            TEST(a_completion_of_open_may_close),
            TEST(the_largest_goes_after_1009_and_is_not_repeated),
            TEST(a_completion_may_open_again),
            TEST(a_stuck_line_gets_no_repeats),
            TEST(a_reply_may_come_later_and_counts_once),
            TEST(a_reply_of_another_session_is_not_sent),
            TEST(what_breaks_the_protocol_ends_the_connection),
            TEST(a_silent_line_is_asked_and_dropped_by_the_clock),
            TEST(methods_and_replies_may_come_from_another_thread),
            TEST(an_open_client_lives_until_it_is_closed),
            TEST(a_client_that_never_opened_goes_and_fails_its_sends),
            TEST(a_refused_client_goes),
            TEST(a_url_that_is_none_raises),
#if defined(GNUSTEP)
            TEST(the_next_address_is_tried_where_nobody_answers),
            TEST(nothing_is_left_behind),
#endif
        };
        return runTests(tests, sizeof tests / sizeof *tests);
    }
}
