// NSURLSessionWebSocketTask: Apple's systems frame, mask and answer pings by themselves. The session calls on a queue of its
// own, so everything it says is brought to the client's thread first, in its order.

#import <Rainbow/RBWTransport.h>

#if RBW_HAS_URL_SESSION

#import "RBWSystem.h"
#import "RBWTimer.h"

#if !__has_feature(objc_arc)
#error "RBWURLSessionTransport.m needs ARC, which every system has that it is for"
#endif

enum { CloseAbnormal = 1006, CloseNoStatus = 1005, StatusSwitching = 101 };

/// For the close frame to leave and the server's to come. A dead line would keep the session for minutes.
static const NSTimeInterval LingerSeconds = 2;

/// Foundation gives a request 60 s without a byte. The client has clocks of its own, so this one must not end a line.
static const NSTimeInterval NeverSeconds = 365 * 24 * 3600;

API_AVAILABLE(macos(10.15), ios(13.0), watchos(6.0), tvos(13.0))
@interface RBWURLSessionTransport () <NSURLSessionWebSocketDelegate>
@end

@implementation RBWURLSessionTransport {
    NSThread *_thread;
    NSURLSession *_session;
    NSURLSessionWebSocketTask *_task;
    NSUInteger _bufferedBytes;
    BOOL _isOpen;
    BOOL _hasEnded;
}

@synthesize delegate = _delegate;

- (NSUInteger)bufferedBytes {
    return _bufferedBytes;
}

- (void)openRequest:(NSURLRequest *)request
        subprotocols:(NSArray<NSString *> *)subprotocols
    receivedBytesMax:(NSUInteger)receivedBytesMax {
    NSAssert(_session == nil, @"a transport is opened once");
    _thread = [NSThread currentThread];
    NSURLSessionConfiguration *configuration = [NSURLSessionConfiguration ephemeralSessionConfiguration];
    configuration.timeoutIntervalForRequest = NeverSeconds;
    configuration.timeoutIntervalForResource = NeverSeconds;
    configuration.waitsForConnectivity = NO;
    // The session keeps its delegate until it is invalidated, and one queue keeps the order.
    NSOperationQueue *queue = [[NSOperationQueue alloc] init];
    queue.maxConcurrentOperationCount = 1;
    _session = [NSURLSession sessionWithConfiguration:configuration delegate:self delegateQueue:queue];

    NSMutableURLRequest *upgrade = [request mutableCopy];
    upgrade.timeoutInterval = NeverSeconds;
    if (subprotocols.count > 0) {
        // A task for a request, with headers, takes its subprotocols from the header.
        [upgrade setValue:[subprotocols componentsJoinedByString:@", "] forHTTPHeaderField:@"Sec-WebSocket-Protocol"];
    }
    _task = [_session webSocketTaskWithRequest:upgrade];
    _task.maximumMessageSize = (NSInteger)MIN(receivedBytesMax, (NSUInteger)NSIntegerMax);
    [_task resume];
}

- (void)sendData:(NSData *)data {
    if (!_isOpen || _hasEnded) return;
    NSUInteger length = data.length;
    _bufferedBytes += length;
    NSURLSessionWebSocketMessage *message = [[NSURLSessionWebSocketMessage alloc] initWithData:data];
    [_task sendMessage:message completionHandler:^(NSError *error) {
        (void)error; // A line that broke says so by its end.
        [self onThread:@selector(didSend:) with:@(length)];
    }];
}

- (void)closeWithCode:(NSInteger)code reason:(NSString *)reason {
    self.delegate = nil;
    [self cancelWithCode:code reason:reason];
}

// On the client's thread.

- (void)didOpen:(NSString *)subprotocol {
    if (_hasEnded) return;
    _isOpen = YES;
    [self.delegate transport:self didOpenWithSubprotocol:subprotocol.length > 0 ? subprotocol : nil];
    [self receive];
}

/// The task takes one message for each call.
- (void)receive {
    if (_hasEnded) return;
    [_task receiveMessageWithCompletionHandler:^(NSURLSessionWebSocketMessage *message, NSError *error) {
        if (error != nil) return; // The task tells of its end by itself.
        NSData *data = message.data ?: [message.string dataUsingEncoding:NSUTF8StringEncoding];
        [self onThread:@selector(didReceive:) with:data ?: [NSData data]];
    }];
}

- (void)didReceive:(NSData *)data {
    if (_hasEnded) return;
    [self.delegate transport:self didReceiveData:data];
    [self receive];
}

- (void)didSend:(NSNumber *)length {
    _bufferedBytes -= length.unsignedIntegerValue;
}

/// `end`: the code, and the reason or an NSNull.
- (void)didClose:(NSArray *)end {
    if (_hasEnded) return;
    id<RBWTransportDelegate> delegate = self.delegate;
    NSInteger code = [end[0] integerValue];
    NSString *reason = [end[1] isKindOfClass:[NSString class]] ? end[1] : @"";
    [self cancelWithCode:CloseNoStatus reason:@""];
    self.delegate = nil;
    [delegate transport:self didCloseWithCode:code reason:reason];
}

- (void)didFailWithStatus:(NSNumber *)status {
    if (_hasEnded) return;
    id<RBWTransportDelegate> delegate = self.delegate;
    [self cancelWithCode:CloseNoStatus reason:@""];
    self.delegate = nil;
    [delegate transport:self didFailWithStatus:status.integerValue];
}

- (void)cancelWithCode:(NSInteger)code reason:(NSString *)reason {
    if (_hasEnded) return;
    _hasEnded = YES;
    if (_isOpen && code != CloseNoStatus) {
        [_task cancelWithCloseCode:(NSURLSessionWebSocketCloseCode)code reason:[reason dataUsingEncoding:NSUTF8StringEncoding]];
        [_session finishTasksAndInvalidate];
        [RBWTimer timerAfter:LingerSeconds target:self selector:@selector(lingerIsOver:) userInfo:nil];
    } else {
        [_session invalidateAndCancel];
    }
}

- (void)lingerIsOver:(RBWTimer *)timer {
    (void)timer;
    [_session invalidateAndCancel];
}

// On the session's queue.

- (void)onThread:(SEL)selector with:(id)object {
    [self performSelector:selector onThread:_thread withObject:object waitUntilDone:NO modes:RBWRunLoopModes()];
}

- (void)URLSession:(NSURLSession *)session
          webSocketTask:(NSURLSessionWebSocketTask *)task
    didOpenWithProtocol:(NSString *)protocol {
    (void)session, (void)task;
    [self onThread:@selector(didOpen:) with:protocol ?: @""];
}

- (void)URLSession:(NSURLSession *)session
       webSocketTask:(NSURLSessionWebSocketTask *)task
    didCloseWithCode:(NSURLSessionWebSocketCloseCode)code
              reason:(NSData *)reason {
    (void)session, (void)task;
    NSString *text = reason == nil ? nil : [[NSString alloc] initWithData:reason encoding:NSUTF8StringEncoding];
    // A close frame without a code counts as 1005, which is 0 here.
    NSInteger known = code == NSURLSessionWebSocketCloseCodeInvalid ? CloseNoStatus : (NSInteger)code;
    [self onThread:@selector(didClose:) with:@[@(known), text ?: [NSNull null]]];
}

/// The last call, after `didClose…` too, when nobody listens any more.
- (void)URLSession:(NSURLSession *)session task:(NSURLSessionTask *)task didCompleteWithError:(NSError *)error {
    (void)session;
    NSHTTPURLResponse *answer = (NSHTTPURLResponse *)task.response;
    BOOL isAnswer = [answer isKindOfClass:[NSHTTPURLResponse class]];
    if (isAnswer && answer.statusCode != StatusSwitching) {
        [self onThread:@selector(didFailWithStatus:) with:@(answer.statusCode)];
    } else {
        [self onThread:@selector(didClose:) with:@[@(CloseAbnormal), error.localizedDescription ?: @"the line has ended"]];
    }
}

/// Rainbow's servers do not redirect; whoever does is not one.
- (void)URLSession:(NSURLSession *)session
                          task:(NSURLSessionTask *)task
    willPerformHTTPRedirection:(NSHTTPURLResponse *)response
                    newRequest:(NSURLRequest *)request
             completionHandler:(void (^)(NSURLRequest *))completionHandler {
    (void)session, (void)task, (void)response, (void)request;
    completionHandler(nil);
}

@end

#endif
