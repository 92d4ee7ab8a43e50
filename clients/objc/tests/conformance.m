// The client as a program of the conformance kit (../../conformance/README.md): commands come in, events go out, a line of JSON
// each. It lives until stdin ends, so it frees nothing at its end.

#import <Rainbow/Rainbow.h>

#import "RBWOwnership.h"
#import "RBWSystem.h"
#import "RBWTimer.h"

static void tell(NSString *event, NSDictionary *fields) {
    NSMutableDictionary *all = [NSMutableDictionary dictionaryWithDictionary:fields];
    [all setObject:event forKey:@"event"];
    NSData *line = [NSJSONSerialization dataWithJSONObject:all options:0 error:NULL];
    fwrite(line.bytes, 1, line.length, stdout);
    fputc('\n', stdout);
    fflush(stdout);
}

static NSString *base64(NSData *data) {
    return [data base64EncodedStringWithOptions:0];
}

static id orNull(id object) {
    return object ?: [NSNull null];
}

static NSString *codeOf(NSError *error) {
    NSArray<NSString *> *codes = @[@"", @"timeout", @"too_large", @"closed", @"full", @"refused", @"protocol", @"storage", @"parameters"];
    BOOL isOurs = [error.domain isEqualToString:RBWErrorDomain] && error.code < (NSInteger)codes.count;
    return isOurs ? [codes objectAtIndex:(NSUInteger)error.code] : error.description;
}

/// The event of a send or an `open` that failed.
static void tellRejected(NSString *tag, NSError *error) {
    NSMutableDictionary *fields = [NSMutableDictionary dictionaryWithDictionary:@{@"tag": tag, @"code": codeOf(error)}];
    NSNumber *status = [error.userInfo objectForKey:RBWErrorStatusKey];
    RBWBody *body = [error.userInfo objectForKey:RBWErrorBodyKey];
    NSString *reason = [error.userInfo objectForKey:RBWErrorReasonKey];
    if (status != nil) [fields setObject:status forKey:@"status"];
    if (body != nil) [fields setObject:base64(body.data) forKey:@"body"];
    if (reason != nil) [fields setObject:reason forKey:@"reason"];
    tell(@"rejected", fields);
}

@class Waiting;

@interface Program : NSObject <RBWClientDelegate> {
    RBWClient *_client;
    NSString *_reply;
    BOOL _isHolding;
    NSMutableArray<Waiting *> *_held;
    NSMutableArray<NSDictionary *> *_each;
    NSTimeInterval _clockOffset;
}
@end

/// Empty messages, so many at a time.
@interface Flood : NSObject {
@public
    RBWClient *_client;
    NSString *_tag;
    uint16_t _type;
    RBWQoS _qos;
    NSInteger _unsent;
    NSInteger _unanswered;
}
- (void)sendOne;
@end

/// A block that waits, as an object.
@interface Waiting : NSObject {
    RBWReply _reply;
}
- (instancetype)initWithReply:(RBWReply)reply;
- (void)endWith:(NSString *)text;
@end

@implementation Program

- (instancetype)init {
    if ((self = [super init])) {
        _reply = @"";
        _held = [[NSMutableArray alloc] init];
    }
    return self;
}

- (void)end {
    exit(0);
}

/// A line of stdin, on the main thread.
- (void)take:(NSData *)line {
    NSDictionary *command = [NSJSONSerialization JSONObjectWithData:line options:0 error:NULL];
    NSString *name = [command objectForKey:@"do"];
    SEL selector = NSSelectorFromString([name stringByAppendingString:@"Command:"]);
    if (![self respondsToSelector:selector]) return tell(@"error", @{@"text": [NSString stringWithFormat:@"no command %@", name]});
    [self performSelector:selector onThread:[NSThread currentThread] withObject:command waitUntilDone:YES];
    if (![@[@"open", @"send", @"close", @"flood"] containsObject:name]) tell(@"done", @{@"command": name});
}

- (void)openCommand:(NSDictionary *)command {
    if (_client == nil) [self makeClient:command];
    NSString *tag = [command objectForKey:@"tag"];
    [_client openWithCompletion:^(RBWGreeting *greeting, NSError *error) {
        (void)greeting;
        if (error != nil) tellRejected(tag, error);
        else tell(@"acknowledged", @{@"tag": tag, @"body": @""});
    }];
}

- (void)makeClient:(NSDictionary *)command {
    RBWConfiguration *configuration = RBW_AUTORELEASE([[RBWConfiguration alloc] init]);
    NSDictionary *options = [command objectForKey:@"options"];
    configuration.deviceID = [command objectForKey:@"device"];
    configuration.platform = @"kit";
    configuration.offersSession = [[command objectForKey:@"session"] boolValue];
    configuration.parameters = [command objectForKey:@"params"];
    configuration.repeatInterval = [[options objectForKey:@"repeat"] doubleValue] / 1000;
    configuration.sendTimeout = [[options objectForKey:@"timeout"] doubleValue] / 1000;
    configuration.backoffMin = [[options objectForKey:@"backoff_min"] doubleValue] / 1000;
    configuration.backoffMax = [[options objectForKey:@"backoff_max"] doubleValue] / 1000;
    configuration.stableAfter = [[options objectForKey:@"stable"] doubleValue] / 1000;
    configuration.clock = ^{ return RBWUptime() + self->_clockOffset; };
    NSString *path = [command objectForKey:@"storage"];
    if ([path isKindOfClass:[NSString class]]) {
        configuration.storage = RBW_AUTORELEASE([[RBWFileStorage alloc] initWithPath:path]);
    }
    if (_each != nil) {
        configuration.parametersProvider = ^(RBWParametersReply reply) {
            NSDictionary *next = self->_each.firstObject;
            reply(next, nil);
            if (next != nil) [self->_each removeObjectAtIndex:0];
        };
    }
    _client = [[RBWClient alloc] initWithURL:[NSURL URLWithString:[command objectForKey:@"url"]] configuration:configuration];
    _client.delegate = self;
}

- (void)sendCommand:(NSDictionary *)command {
    NSString *tag = [command objectForKey:@"tag"];
    NSData *body = RBW_AUTORELEASE([[NSData alloc] initWithBase64EncodedString:[command objectForKey:@"body"] options:0]);
    RBWSendCompletion completion = ^(RBWBody *answer, NSError *error) {
        if (error != nil) tellRejected(tag, error);
        else tell(@"acknowledged", @{@"tag": tag, @"body": base64(answer.data)});
    };
    uint16_t type = (uint16_t)[[command objectForKey:@"type"] integerValue];
    RBWQoS qos = [[command objectForKey:@"qos"] integerValue];
    NSNumber *timeout = [command objectForKey:@"timeout"];
    if (timeout == nil) [_client sendData:body type:type qos:qos completion:completion];
    else [_client sendData:body type:type qos:qos timeout:timeout.doubleValue / 1000 completion:completion];
}

- (void)closeCommand:(NSDictionary *)command {
    (void)command;
    [_client close];
}

- (void)floodCommand:(NSDictionary *)command {
    Flood *flood = RBW_AUTORELEASE([[Flood alloc] init]);
    flood->_client = RBW_RETAIN(_client);
    flood->_tag = [[command objectForKey:@"tag"] copy];
    flood->_type = (uint16_t)[[command objectForKey:@"type"] integerValue];
    flood->_qos = [[command objectForKey:@"qos"] integerValue];
    flood->_unsent = flood->_unanswered = [[command objectForKey:@"count"] integerValue];
    NSInteger window = [[command objectForKey:@"window"] integerValue];
    for (NSInteger at = 0; at < window; at++) [flood sendOne];
}

- (void)replyCommand:(NSDictionary *)command {
    _reply = [[command objectForKey:@"text"] copy];
}

- (void)holdCommand:(NSDictionary *)command {
    (void)command;
    _isHolding = YES;
}

- (void)releaseCommand:(NSDictionary *)command {
    (void)command;
    _isHolding = NO;
    NSArray<Waiting *> *held = RBW_AUTORELEASE([_held copy]);
    [_held removeAllObjects];
    for (Waiting *one in held) [one endWith:_reply];
}

- (void)paramsCommand:(NSDictionary *)command {
    _each = [[command objectForKey:@"each"] mutableCopy];
}

- (void)clockCommand:(NSDictionary *)command {
    _clockOffset += [[command objectForKey:@"add"] doubleValue] / 1000;
}

- (void)syncCommand:(NSDictionary *)command {
    (void)command;
}

// What the client tells.

- (void)client:(RBWClient *)client didOpen:(RBWGreeting *)greeting {
    (void)client;
    NSDictionary *fields = @{
        @"session": orNull(greeting.session),
        @"resumed": [NSNumber numberWithBool:greeting.isResumed],
        @"waiting": @(greeting.waiting),
    };
    tell(@"opened", fields);
}

- (void)client:(RBWClient *)client didClose:(RBWClosing *)closing {
    (void)client;
    id retry = closing.retryDelay == nil ? nil : @(llround(closing.retryDelay.doubleValue * 1000));
    tell(@"closed", @{@"code": @(closing.code), @"reason": closing.reason, @"retry": orNull(retry)});
}

- (void)client:(RBWClient *)client didReceiveMessage:(RBWMessage *)message reply:(RBWReply)reply {
    (void)client;
    id identifier = message.identifier == 0 ? nil : @(message.identifier);
    tell(@"message", @{
        @"type": @(message.type),
        @"qos": @(message.qos),
        @"id": orNull(identifier),
        @"dup": [NSNumber numberWithBool:message.isDuplicate],
        @"body": base64(message.data),
    });
    Waiting *waiting = RBW_AUTORELEASE([[Waiting alloc] initWithReply:reply]);
    if (_isHolding) [_held addObject:waiting];
    else [waiting endWith:_reply];
}

- (void)client:(RBWClient *)client didFail:(NSError *)error {
    (void)client;
    tell(@"error", @{@"text": error.localizedDescription});
}

@end

@implementation Flood

- (void)sendOne {
    if (_unsent == 0) return;
    _unsent--;
    [_client sendData:[NSData data] type:_type qos:_qos completion:^(RBWBody *answer, NSError *error) {
        (void)answer;
        self->_unanswered--;
        if (error != nil) tellRejected(self->_tag, error);
        else if (self->_unanswered == 0) tell(@"acknowledged", @{@"tag": self->_tag, @"body": @""});
        else [self sendOne];
    }];
}

@end

@implementation Waiting

- (instancetype)initWithReply:(RBWReply)reply {
    if ((self = [super init])) RBW_SET_BLOCK(_reply, reply);
    return self;
}

- (void)dealloc {
    RBW_SET_BLOCK(_reply, (RBWReply)nil);
    RBW_SUPER_DEALLOC;
}

- (void)endWith:(NSString *)text {
    _reply([text dataUsingEncoding:NSUTF8StringEncoding]);
}

@end

/// Lines are read on a thread, which may wait for them.
@interface Reader : NSObject
@end

@implementation Reader

+ (void)readFor:(Program *)program {
    char *line = NULL;
    size_t size = 0;
    ssize_t length;
    while ((length = getline(&line, &size, stdin)) > 0) {
        @autoreleasepool {
            NSData *data = [NSData dataWithBytes:line length:(NSUInteger)length];
            [program performSelectorOnMainThread:@selector(take:) withObject:data waitUntilDone:NO];
        }
    }
    // On the main thread, so that no line is cut in two.
    [program performSelectorOnMainThread:@selector(end) withObject:nil waitUntilDone:NO];
}

@end

int main(void) {
    @autoreleasepool {
#if !RBW_APPLE
        // For the tests with TLS: whom to trust.
        NSString *trusted = [[NSProcessInfo processInfo].environment objectForKey:@"RBW_CA_FILE"];
        if (trusted != nil) RBWStreamTransport.trustedCertificatesFile = trusted;
#endif
        Program *program = [[Program alloc] init];
        // A run loop without anything to wait for ends at once. It is made before the thread, which needs it (RBWResolver.m).
        [RBWTimer timerEvery:3600 target:program selector:@selector(description) userInfo:nil];
        [NSThread detachNewThreadSelector:@selector(readFor:) toTarget:[Reader class] withObject:program];
        while (YES) {
            @autoreleasepool {
                [[NSRunLoop currentRunLoop] runMode:NSDefaultRunLoopMode beforeDate:[NSDate distantFuture]];
            }
        }
    }
}
