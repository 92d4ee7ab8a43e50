// A transport without a network: a test sees what a client writes, and says what comes.

#import <Rainbow/Rainbow.h>

@interface FakeTransport : NSObject <RBWTransport> {
@public
    NSURLRequest *_request;
    NSArray<NSString *> *_subprotocols;
    /// In hex.
    NSMutableArray<NSString *> *_sent;
    NSUInteger _bufferedBytes;
    /// 0 until the client has closed it.
    NSInteger _closeCode;
    RBW_WEAK_IVAR id<RBWTransportDelegate> _delegate;
}

/// All that clients have made since `forgetAll`.
+ (NSArray<FakeTransport *> *)all;
+ (FakeTransport *)last;
+ (void)forgetAll;

/// The oldest packet that was not taken yet, in hex; nil for none.
- (NSString *)takeSent;
- (void)acceptWithSubprotocol:(NSString *)subprotocol;
- (void)greet:(NSDictionary *)greeting;
- (void)receive:(NSString *)hex;
- (void)endWithCode:(NSInteger)code reason:(NSString *)reason;

@end
