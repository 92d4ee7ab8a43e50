#import "fake.h"
#import "RBWOwnership.h"
#import "check.h"

static NSMutableArray<FakeTransport *> *all;

@implementation FakeTransport

@synthesize delegate = _delegate, bufferedBytes = _bufferedBytes;

+ (NSArray<FakeTransport *> *)all {
    return all ?: @[];
}

+ (FakeTransport *)last {
    return all.lastObject;
}

+ (void)forgetAll {
    RBW_RELEASE(all);
    all = [[NSMutableArray alloc] init];
}

- (instancetype)init {
    if ((self = [super init])) {
        _sent = [[NSMutableArray alloc] init];
        [all addObject:self];
    }
    return self;
}

- (void)dealloc {
    RBW_RELEASE(_request);
    RBW_RELEASE(_subprotocols);
    RBW_RELEASE(_sent);
    RBW_SUPER_DEALLOC;
}

- (void)openRequest:(NSURLRequest *)request subprotocols:(NSArray<NSString *> *)subprotocols receivedBytesMax:(NSUInteger)receivedBytesMax {
    (void)receivedBytesMax;
    _request = [request copy];
    _subprotocols = [subprotocols copy];
}

- (void)sendData:(NSData *)data {
    if (_closeCode == 0) [_sent addObject:toHex(data)];
}

- (void)closeWithCode:(NSInteger)code reason:(NSString *)reason {
    (void)reason;
    if (_closeCode == 0) _closeCode = code;
}

- (NSString *)takeSent {
    if (_sent.count == 0) return nil;
    NSString *first = RBW_AUTORELEASE(RBW_RETAIN(_sent.firstObject));
    [_sent removeObjectAtIndex:0];
    return first;
}

- (void)acceptWithSubprotocol:(NSString *)subprotocol {
    [self.delegate transport:self didOpenWithSubprotocol:subprotocol];
}

- (void)greet:(NSDictionary *)greeting {
    [self acceptWithSubprotocol:@"rainbow.2"];
    NSMutableData *packet = [NSMutableData dataWithData:fromHex(@"10ffff")];
    [packet appendData:[NSJSONSerialization dataWithJSONObject:greeting options:0 error:NULL]];
    [self.delegate transport:self didReceiveData:packet];
}

- (void)receive:(NSString *)hex {
    [self.delegate transportDidHear:self];
    [self.delegate transport:self didReceiveData:fromHex(hex)];
}

- (void)endWithCode:(NSInteger)code reason:(NSString *)reason {
    [self.delegate transport:self didCloseWithCode:code reason:reason];
}

@end
