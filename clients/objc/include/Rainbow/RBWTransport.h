// A WebSocket, as a client needs it. `RBWURLSessionTransport` and `RBWStreamTransport` are there; a test may have its own.

#import <Rainbow/RBWDefines.h>

@class RBWFramer, RBWHandshake, RBWTLS, RBWTimer;

NS_ASSUME_NONNULL_BEGIN

@protocol RBWTransportDelegate;

/// One connection, from the request to its end. A client makes one for each attempt, by `init`, and uses it on its own
/// thread, which has a run loop. The delegate is called on that thread, and never from within a method of the transport.
NS_SWIFT_NAME(RainbowTransport)
@protocol RBWTransport <NSObject>

- (instancetype)init;

@property (nonatomic, RBW_WEAK, nullable) id<RBWTransportDelegate> delegate;
/// Bytes that were given to `sendData:` and have not left.
@property (nonatomic, readonly) NSUInteger bufferedBytes;

/// Connects. `receivedBytesMax` bounds a message from the server.
- (void)openRequest:(NSURLRequest *)request
        subprotocols:(NSArray<NSString *> *)subprotocols
    receivedBytesMax:(NSUInteger)receivedBytesMax;
/// Sends a binary message. What is sent on a connection that has ended is lost.
- (void)sendData:(NSData *)data;
/// Says goodbye and ends within seconds, whatever the line does. The delegate is not called any more.
- (void)closeWithCode:(NSInteger)code reason:(NSString *)reason;

@end

/// The last of these calls is `didClose…` or `didFail…`, once.
NS_SWIFT_NAME(RainbowTransportDelegate)
@protocol RBWTransportDelegate <NSObject>

- (void)transport:(id<RBWTransport>)transport didOpenWithSubprotocol:(nullable NSString *)subprotocol;
/// Something came, maybe a part of a message. A transport that does not see parts leaves it out.
- (void)transportDidHear:(id<RBWTransport>)transport;
- (void)transport:(id<RBWTransport>)transport didReceiveData:(NSData *)data;
- (void)transport:(id<RBWTransport>)transport didCloseWithCode:(NSInteger)code reason:(NSString *)reason;
/// The server answered the request with another HTTP status than 101.
- (void)transport:(id<RBWTransport>)transport didFailWithStatus:(NSInteger)status;

@end

/// NSStream with a WebSocket of its own: for GNUstep, and for Apple's systems before 2019.
NS_SWIFT_NAME(RainbowStreamTransport)
@interface RBWStreamTransport : NSObject <RBWTransport> {
@private
    NSInputStream *_input;
    NSOutputStream *_output;
    RBWHandshake *_handshake;
    RBWFramer *_framer;
#if !RBW_APPLE
    RBWTLS *_tls;
#endif
    RBWTimer *_linger;
    NSArray *_hosts;
    NSURL *_url;
    RBW_WEAK_IVAR id<RBWTransportDelegate> _delegate;
    NSInteger _phase;
    NSMutableData *_unwritten;
    /// The stream has said so, and nothing was written since.
    BOOL _hasSpace;
    BOOL _isConnected;
    NSInteger _endCode;
    NSString *_endReason;
}

#if !RBW_APPLE
/// A PEM file of authorities to trust beside the system's, for all transports that are made afterwards.
@property (class, nonatomic, copy, nullable) NSString *trustedCertificatesFile;
#endif

@end

#if RBW_APPLE && !defined(RBW_HAS_URL_SESSION)
#define RBW_HAS_URL_SESSION 1
#endif

#if RBW_HAS_URL_SESSION
/// NSURLSessionWebSocketTask.
NS_SWIFT_NAME(RainbowURLSessionTransport)
API_AVAILABLE(macos(10.15), ios(13.0), watchos(6.0), tvos(13.0))
@interface RBWURLSessionTransport : NSObject <RBWTransport>
@end
#endif

NS_ASSUME_NONNULL_END
