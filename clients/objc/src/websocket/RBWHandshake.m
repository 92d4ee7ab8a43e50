#import "RBWHandshake.h"
#import "RBWOwnership.h"
#import "RBWSHA1.h"
#import "RBWSystem.h"

/// An answer's head has a few hundred bytes; whoever sends more is no WebSocket server.
static const NSUInteger HeadBytesMax = 16 * 1024;
static NSString *const Magic = @"258EAFA5-E914-47DA-95CA-C5AB0DC85B11";

static NSString *targetOf(NSURL *url);
static NSString *withoutLineEnds(NSString *text);
static NSDictionary<NSString *, NSString *> *headersOf(NSArray<NSString *> *lines);
static NSString *trimmed(NSString *text);
static BOOL hasToken(NSString *value, NSString *token);

@interface RBWHandshake ()
@property (nonatomic, copy, nullable) NSString *subprotocol;
@property (nonatomic) NSInteger status;
@property (nonatomic, copy) NSString *failure;
@property (nonatomic, strong) NSData *rest;
@end

@implementation RBWHandshake

@synthesize subprotocol = _subprotocol, status = _status, failure = _failure, rest = _rest, requestData = _requestData;

- (instancetype)initWithRequest:(NSURLRequest *)request subprotocols:(NSArray<NSString *> *)subprotocols {
    if ((self = [super init])) {
        uint8_t nonce[16];
        RBWRandomBytes(nonce, sizeof nonce);
        _key = [[[NSData dataWithBytes:nonce length:sizeof nonce] base64EncodedStringWithOptions:0] copy];
        _subprotocols = [subprotocols copy];
        _head = [[NSMutableData alloc] init];
        _failure = @"";
        _rest = [[NSData alloc] init];
        _requestData = [[self headOf:request] copy];
    }
    return self;
}

- (void)dealloc {
    RBW_RELEASE(_key);
    RBW_RELEASE(_subprotocols);
    RBW_RELEASE(_head);
    RBW_RELEASE(_failure);
    RBW_RELEASE(_rest);
    RBW_RELEASE(_requestData);
    RBW_RELEASE(_subprotocol);
    RBW_SUPER_DEALLOC;
}

- (NSData *)headOf:(NSURLRequest *)request {
    NSURL *url = request.URL;
    NSString *host = url.host ?: @"";
    if ([host rangeOfString:@":"].length > 0 && ![host hasPrefix:@"["]) host = [NSString stringWithFormat:@"[%@]", host];
    if (url.port != nil) host = [host stringByAppendingFormat:@":%@", url.port];
    NSMutableString *head = [NSMutableString stringWithFormat:@"GET %@ HTTP/1.1\r\n", targetOf(url)];
    NSMutableDictionary<NSString *, NSString *> *headers = [NSMutableDictionary dictionary];
    [headers addEntriesFromDictionary:request.allHTTPHeaderFields ?: @{}];
    [headers addEntriesFromDictionary:@{
        @"Host": host,
        @"Upgrade": @"websocket",
        @"Connection": @"Upgrade",
        @"Sec-WebSocket-Key": _key,
        @"Sec-WebSocket-Version": @"13",
    }];
    if (_subprotocols.count > 0) {
        [headers setObject:[_subprotocols componentsJoinedByString:@", "] forKey:@"Sec-WebSocket-Protocol"];
    }
    for (NSString *name in headers) {
        [head appendFormat:@"%@: %@\r\n", withoutLineEnds(name), withoutLineEnds([headers objectForKey:name])];
    }
    [head appendString:@"\r\n"];
    return [head dataUsingEncoding:NSUTF8StringEncoding];
}

- (RBWHandshakeResult)appendBytes:(const void *)bytes length:(NSUInteger)length {
    NSUInteger before = _head.length;
    [_head appendBytes:bytes length:length];
    // The end may have begun in what came before.
    NSUInteger from = before < 3 ? 0 : before - 3;
    NSData *mark = [NSData dataWithBytes:"\r\n\r\n" length:4];
    NSRange end = [_head rangeOfData:mark options:0 range:NSMakeRange(from, _head.length - from)];
    NSUInteger headLength = end.location == NSNotFound ? _head.length : end.location;
    if (headLength > HeadBytesMax) return [self fail:@"the answer's head is too long"];
    if (end.location == NSNotFound) return RBWHandshakeNeedMore;
    self.rest = [_head subdataWithRange:NSMakeRange(NSMaxRange(end), _head.length - NSMaxRange(end))];
    // Latin 1 takes every byte.
    NSData *head = [_head subdataWithRange:NSMakeRange(0, end.location)];
    return [self judge:RBW_AUTORELEASE([[NSString alloc] initWithData:head encoding:NSISOLatin1StringEncoding])];
}

- (RBWHandshakeResult)judge:(NSString *)head {
    NSArray<NSString *> *lines = [head componentsSeparatedByString:@"\r\n"];
    NSArray<NSString *> *words = [lines.firstObject componentsSeparatedByString:@" "];
    NSString *status = words.count < 2 ? nil : [words objectAtIndex:1];
    if (![words.firstObject hasPrefix:@"HTTP/1."] || status.length != 3) return [self fail:@"not an HTTP answer"];
    self.status = status.integerValue;
    if (self.status != 101) return RBWHandshakeStatus;

    NSDictionary<NSString *, NSString *> *headers = headersOf([lines subarrayWithRange:NSMakeRange(1, lines.count - 1)]);
    if (!hasToken([headers objectForKey:@"upgrade"], @"websocket")) return [self fail:@"no Upgrade: websocket"];
    if (!hasToken([headers objectForKey:@"connection"], @"upgrade")) return [self fail:@"no Connection: Upgrade"];
    NSString *accept = [headers objectForKey:@"sec-websocket-accept"];
    if (![accept isEqualToString:[RBWHandshake acceptForKey:_key]]) return [self fail:@"wrong Sec-WebSocket-Accept"];
    if ([headers objectForKey:@"sec-websocket-extensions"].length > 0) return [self fail:@"an extension that was not asked for"];
    self.subprotocol = [headers objectForKey:@"sec-websocket-protocol"];
    if (self.subprotocol != nil && ![_subprotocols containsObject:self.subprotocol]) {
        return [self fail:@"a subprotocol that was not offered"];
    }
    return RBWHandshakeOpen;
}

- (RBWHandshakeResult)fail:(NSString *)why {
    self.failure = why;
    return RBWHandshakeFailed;
}

+ (NSString *)acceptForKey:(NSString *)key {
    NSData *joined = [[key stringByAppendingString:Magic] dataUsingEncoding:NSASCIIStringEncoding];
    return [RBWSHA1(joined) base64EncodedStringWithOptions:0];
}

// Helpers.

/// Path and query as they stand in the URL, still encoded.
static NSString *targetOf(NSURL *url) {
    NSString *text = url.absoluteString;
    NSRange scheme = [text rangeOfString:@"://"];
    NSUInteger from = scheme.location == NSNotFound ? 0 : NSMaxRange(scheme);
    NSRange slash = [text rangeOfString:@"/" options:0 range:NSMakeRange(from, text.length - from)];
    NSString *target = slash.location == NSNotFound ? @"/" : [text substringFromIndex:slash.location];
    return [target componentsSeparatedByString:@"#"].firstObject;
}

/// A header that an application gives must not begin another one.
static NSString *withoutLineEnds(NSString *text) {
    NSCharacterSet *ends = [NSCharacterSet characterSetWithCharactersInString:@"\r\n"];
    return [[text componentsSeparatedByCharactersInSet:ends] componentsJoinedByString:@" "];
}

/// Names in lower case. Values of one name are joined by commas.
static NSDictionary<NSString *, NSString *> *headersOf(NSArray<NSString *> *lines) {
    NSMutableDictionary<NSString *, NSString *> *headers = [NSMutableDictionary dictionary];
    for (NSString *line in lines) {
        NSRange colon = [line rangeOfString:@":"];
        if (colon.location == NSNotFound) continue;
        NSString *name = [line substringToIndex:colon.location].lowercaseString;
        NSString *value = trimmed([line substringFromIndex:NSMaxRange(colon)]);
        NSString *earlier = [headers objectForKey:name];
        [headers setObject:earlier == nil ? value : [NSString stringWithFormat:@"%@, %@", earlier, value] forKey:name];
    }
    return headers;
}

static NSString *trimmed(NSString *text) {
    return [text stringByTrimmingCharactersInSet:[NSCharacterSet characterSetWithCharactersInString:@" \t"]];
}

static BOOL hasToken(NSString *value, NSString *token) {
    for (NSString *one in [value componentsSeparatedByString:@","]) {
        if ([trimmed(one).lowercaseString isEqualToString:token]) return YES;
    }
    return NO;
}

@end
