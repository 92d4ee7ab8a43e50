// NSStream with a WebSocket of its own. It moves bytes between the streams and the handshake or the framer, which judge them.

#import <Rainbow/RBWTransport.h>

#import "RBWFramer.h"
#import "RBWHandshake.h"
#import "RBWOwnership.h"
#import "RBWResolver.h"
#import "RBWSystem.h"
#import "RBWTLS.h"
#import "RBWTimer.h"

typedef NS_ENUM(NSInteger, Phase) {
    PhaseIdle,
    /// Until the server has answered the request.
    PhaseOpening,
    PhaseOpen,
    /// A close was said or heard. What is buffered goes out, and the other side may end the line.
    PhaseClosing,
    PhaseEnded,
};

enum {
    CloseAbnormal = 1006,
    ReadLength = 64 * 1024,
    PongsBufferedMax = 1024 * 1024,
};

/// For the close frame to leave and the server's to come.
static const NSTimeInterval LingerSeconds = 2;

#if !RBW_APPLE
static NSString *trustedCertificatesFile;
#endif

#if RBW_APPLE
@interface RBWStreamTransport () <NSStreamDelegate>
#else
@interface RBWStreamTransport () <NSStreamDelegate, RBWResolverDelegate>
#endif
@property (nonatomic, strong, nullable) NSInputStream *input;
@property (nonatomic, strong, nullable) NSOutputStream *output;
@property (nonatomic, strong, nullable) RBWHandshake *handshake;
@property (nonatomic, strong, nullable) RBWFramer *framer;
#if !RBW_APPLE
@property (nonatomic, strong, nullable) RBWTLS *tls;
#endif
@property (nonatomic, strong, nullable) RBWTimer *linger;
/// Others to try when the first does not answer.
@property (nonatomic, copy, nullable) NSArray *hosts;
@property (nonatomic, copy, nullable) NSURL *url;
@end

@implementation RBWStreamTransport

#if !RBW_APPLE
@synthesize tls = _tls;
#endif
@synthesize input = _input, output = _output, handshake = _handshake, framer = _framer, linger = _linger, hosts = _hosts,
            url = _url, delegate = _delegate;

#if !RBW_APPLE
+ (NSString *)trustedCertificatesFile {
    return trustedCertificatesFile;
}

+ (void)setTrustedCertificatesFile:(NSString *)path {
    RBW_RELEASE(trustedCertificatesFile);
    trustedCertificatesFile = [path copy];
}
#endif

- (instancetype)init {
    if ((self = [super init])) _unwritten = [[NSMutableData alloc] init];
    return self;
}

- (void)dealloc {
    [self closeStreams];
    RBW_RELEASE(_unwritten);
    RBW_RELEASE(_handshake);
    RBW_RELEASE(_framer);
#if !RBW_APPLE
    RBW_RELEASE(_tls);
#endif
    RBW_RELEASE(_hosts);
    RBW_RELEASE(_url);
    RBW_RELEASE(_endReason);
    RBW_SUPER_DEALLOC;
}

- (NSUInteger)bufferedBytes {
    return _unwritten.length;
}

- (void)openRequest:(NSURLRequest *)request
        subprotocols:(NSArray<NSString *> *)subprotocols
    receivedBytesMax:(NSUInteger)receivedBytesMax {
    NSAssert(_phase == PhaseIdle, @"a transport is opened once");
    _phase = PhaseOpening;
    self.url = request.URL;
    self.handshake = RBW_AUTORELEASE([[RBWHandshake alloc] initWithRequest:request subprotocols:subprotocols]);
    self.framer = RBW_AUTORELEASE([[RBWFramer alloc] initWithMessageBytesMax:receivedBytesMax]);
#if RBW_APPLE
    [self write:self.handshake.requestData];
    NSInputStream *input = nil;
    NSOutputStream *output = nil;
    [NSStream getStreamsToHostWithName:self.url.host port:self.port inputStream:&input outputStream:&output];
    [self useInput:input output:output];
#else
    if (self.isSecure) {
        self.tls = RBW_AUTORELEASE([[RBWTLS alloc] initWithHost:self.url.host trustFile:trustedCertificatesFile]);
        [self shakeHands];
    } else {
        [self write:self.handshake.requestData];
    }
    if (_phase == PhaseOpening) [self resolve];
#endif
}

- (void)sendData:(NSData *)data {
    if (_phase != PhaseOpen) return;
    [self write:[RBWFramer frameWithOpcode:RBWOpcodeBinary payload:data]];
}

- (void)closeWithCode:(NSInteger)code reason:(NSString *)reason {
    self.delegate = nil;
    if (_phase == PhaseOpen) [self closeLine:[RBWFramer closeFrameWithCode:code reason:reason]];
    else if (_phase != PhaseClosing) [self end];
}

// The streams.

- (BOOL)isSecure {
    return [@[@"wss", @"https"] containsObject:self.url.scheme.lowercaseString];
}

- (NSInteger)port {
    NSInteger standard = self.isSecure ? 443 : 80;
    return self.url.port == nil ? standard : self.url.port.integerValue;
}

#if !RBW_APPLE
- (void)resolve {
    [RBWResolver resolve:self.url.host for:self];
}

- (void)resolverDidFind:(NSArray<NSHost *> *)hosts {
    if (_phase != PhaseOpening) return;
    self.hosts = hosts;
    if (![self tryNextHost]) [self failWithCode:CloseAbnormal reason:@"the host is not known"];
}

- (BOOL)tryNextHost {
    if (self.hosts.count == 0) return NO;
    NSHost *host = self.hosts.firstObject;
    self.hosts = [self.hosts subarrayWithRange:NSMakeRange(1, self.hosts.count - 1)];
    NSInputStream *input = nil;
    NSOutputStream *output = nil;
    [NSStream getStreamsToHost:host port:self.port inputStream:&input outputStream:&output];
    [self useInput:input output:output];
    return YES;
}
#else
- (BOOL)tryNextHost {
    return NO;
}
#endif

- (void)useInput:(NSInputStream *)input output:(NSOutputStream *)output {
    if (input == nil || output == nil) return [self failWithCode:CloseAbnormal reason:@"no streams"];
    [self closeStreams];
    self.input = input;
    self.output = output;
    _hasSpace = NO;
    for (NSStream *stream in @[input, output]) {
#if RBW_APPLE
        // The system's authorities and the host's name are what these streams check by themselves.
        if (self.isSecure) [stream setProperty:NSStreamSocketSecurityLevelNegotiatedSSL forKey:NSStreamSocketSecurityLevelKey];
#endif
        stream.delegate = self;
        for (NSString *mode in RBWRunLoopModes()) [stream scheduleInRunLoop:[NSRunLoop currentRunLoop] forMode:mode];
    }
    [input open];
    [output open];
}

- (void)closeStreams {
    if (self.input == nil) return;
    for (NSStream *stream in @[self.input, self.output]) {
        stream.delegate = nil;
        [stream close];
        for (NSString *mode in RBWRunLoopModes()) [stream removeFromRunLoop:[NSRunLoop currentRunLoop] forMode:mode];
    }
    self.input = nil;
    self.output = nil;
}

- (void)stream:(NSStream *)stream handleEvent:(NSStreamEvent)event {
    RBW_KEEP(self);
    RBW_KEEP_TOO(stream);
    if (_phase == PhaseEnded || (stream != self.input && stream != self.output)) return;
    switch (event) {
        case NSStreamEventHasBytesAvailable:
            [self read];
            break;
        case NSStreamEventHasSpaceAvailable:
            _hasSpace = YES;
            [self flush];
            break;
        case NSStreamEventErrorOccurred:
            [self streamsEnded:stream.streamError.localizedDescription ?: @"the stream failed"];
            break;
        case NSStreamEventEndEncountered:
            [self streamsEnded:@"the line has ended"];
            break;
        case NSStreamEventOpenCompleted:
            _isConnected = YES;
            break;
        default:
            break;
    }
}

- (void)streamsEnded:(NSString *)why {
    if (_phase == PhaseEnded) return;
    if (_phase == PhaseClosing) return [self end];
    // An address that nobody answers at: the host may have others.
    if (_phase == PhaseOpening && !_isConnected && [self tryNextHost]) return;
    [self failWithCode:CloseAbnormal reason:why];
}

- (void)write:(NSData *)data {
#if !RBW_APPLE
    if (self.tls != nil) {
        [self.tls write:data];
        data = [self.tls takeOutgoing];
    }
#endif
    [_unwritten appendData:data];
    [self flush];
}

/// One write for each time that the stream has space, so that no system blocks in it.
- (void)flush {
    if (!_hasSpace || _unwritten.length == 0) return;
    _hasSpace = NO;
    NSInteger written = [self.output write:_unwritten.bytes maxLength:_unwritten.length];
    // Less than nothing was written: the stream has no space after all, or it tells of its end by an event.
    if (written > 0) [_unwritten replaceBytesInRange:NSMakeRange(0, (NSUInteger)written) withBytes:NULL length:0];
}

// In.

- (void)read {
    uint8_t bytes[ReadLength];
    NSInteger length = [self.input read:bytes maxLength:sizeof bytes];
    if (length <= 0) return;
#if !RBW_APPLE
    if (self.tls != nil) return [self recordsCame:bytes length:(NSUInteger)length];
#endif
    [self bytesCame:bytes length:(NSUInteger)length];
}

#if !RBW_APPLE
- (void)recordsCame:(const uint8_t *)bytes length:(NSUInteger)length {
    [self.tls appendBytes:bytes length:length];
    if (self.tls.state == RBWTLSHandshaking) [self shakeHands];
    NSData *plaintext = [self.tls takePlaintext];
    // TLS may answer by itself.
    [_unwritten appendData:[self.tls takeOutgoing]];
    [self flush];
    if (plaintext.length > 0) [self bytesCame:plaintext.bytes length:plaintext.length];
    if (self.tls.state == RBWTLSFailed) [self streamsEnded:[@"TLS: " stringByAppendingString:self.tls.failure]];
    if (self.tls.state == RBWTLSEnded) [self streamsEnded:@"the line has ended"];
}

- (void)shakeHands {
    [self.tls handshake];
    [_unwritten appendData:[self.tls takeOutgoing]];
    [self flush];
    if (self.tls.state == RBWTLSOpen) [self write:self.handshake.requestData];
    if (self.tls.state == RBWTLSFailed) [self failWithCode:CloseAbnormal reason:[@"TLS: " stringByAppendingString:self.tls.failure]];
}
#endif

- (void)bytesCame:(const uint8_t *)bytes length:(NSUInteger)length {
    if (_phase == PhaseOpening) return [self answerCame:bytes length:length];
    [self.delegate transportDidHear:self];
    [self framesCame:bytes length:length];
}

- (void)answerCame:(const uint8_t *)bytes length:(NSUInteger)length {
    switch ([self.handshake appendBytes:bytes length:length]) {
        case RBWHandshakeNeedMore:
            break;
        case RBWHandshakeOpen: {
            _phase = PhaseOpen;
            NSData *rest = self.handshake.rest;
            [self.delegate transport:self didOpenWithSubprotocol:self.handshake.subprotocol];
            [self framesCame:rest.bytes length:rest.length];
            break;
        }
        case RBWHandshakeStatus: {
            id<RBWTransportDelegate> delegate = self.delegate;
            self.delegate = nil;
            [self end];
            [delegate transport:self didFailWithStatus:self.handshake.status];
            break;
        }
        case RBWHandshakeFailed:
            [self failWithCode:CloseAbnormal reason:self.handshake.failure];
            break;
    }
}

- (void)framesCame:(const void *)bytes length:(NSUInteger)length {
    [self.framer appendBytes:bytes length:length];
    // The delegate may close this transport at any message. After that, frames are taken only to find the server's close.
    while (_phase == PhaseOpen || _phase == PhaseClosing) {
        RBWFrameEvent event = [self.framer nextEvent];
        if (event == RBWFrameNeedMore) return;
        if (_phase == PhaseClosing) {
            if (event == RBWFrameClose || event == RBWFrameViolation) [self end];
            continue;
        }
        [self frameCame:event];
    }
}

- (void)frameCame:(RBWFrameEvent)event {
    RBWFramer *framer = self.framer;
    switch (event) {
        case RBWFrameMessage:
            [self.delegate transport:self didReceiveData:framer.payload];
            break;
        case RBWFramePing:
            // A server that asks and does not read gets no more answers than fit.
            if (_unwritten.length > PongsBufferedMax) break;
            [self write:[RBWFramer frameWithOpcode:RBWOpcodePong payload:framer.payload]];
            break;
        case RBWFrameClose:
            [self closeLine:[RBWFramer closeFrameWithCode:framer.closeCode reason:@""]];
            [self tellEndWithCode:framer.closeCode reason:framer.closeReason];
            break;
        case RBWFrameViolation:
            // The code is for the server. Here the line has failed, as a browser would say.
            [self closeLine:[RBWFramer closeFrameWithCode:framer.closeCode reason:framer.closeReason]];
            [self tellEndWithCode:CloseAbnormal reason:framer.closeReason];
            break;
        case RBWFramePong:
        case RBWFrameNeedMore:
            break;
    }
}

// The end.

- (void)closeLine:(NSData *)closeFrame {
    _phase = PhaseClosing;
    // The timer keeps this transport until then, whoever lets go of it.
    self.linger = [RBWTimer timerAfter:LingerSeconds target:self selector:@selector(lingerIsOver:) userInfo:nil];
    [self write:closeFrame];
}

- (void)lingerIsOver:(RBWTimer *)timer {
    (void)timer;
    [self end];
}

/// A failure, which may be found within a method that the client calls: the delegate hears of it on the run loop's next turn.
- (void)failWithCode:(NSInteger)code reason:(NSString *)reason {
    if (_phase == PhaseEnded) return;
    [self end];
    _endCode = code;
    RBW_RELEASE(_endReason);
    _endReason = [reason copy];
    [RBWTimer timerAfter:0 target:self selector:@selector(tellFailure:) userInfo:nil];
}

- (void)tellFailure:(RBWTimer *)timer {
    (void)timer;
    [self tellEndWithCode:_endCode reason:_endReason];
}

- (void)tellEndWithCode:(NSInteger)code reason:(NSString *)reason {
    id<RBWTransportDelegate> delegate = self.delegate;
    self.delegate = nil;
    [delegate transport:self didCloseWithCode:code reason:reason];
}

- (void)end {
    RBW_KEEP(self);
    _phase = PhaseEnded;
    [self.linger invalidate];
    self.linger = nil;
    [self closeStreams];
}

@end
