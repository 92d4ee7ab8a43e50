// How a client connects and behaves. The defaults fit; a client copies its configuration when it is made.

#import <Rainbow/RBWStorage.h>

NS_ASSUME_NONNULL_BEGIN

/// Called once by the application, at once or later, on any thread. An error makes the attempt fail; another follows.
typedef void (^RBWParametersReply)(NSDictionary<NSString *, NSString *> *_Nullable parameters, NSError *_Nullable error)
    NS_SWIFT_NAME(RainbowParametersReply);

/// Times are seconds.
NS_SWIFT_NAME(RainbowConfiguration)
@interface RBWConfiguration : NSObject <NSCopying> {
@private
    NSString *_deviceID;
    NSString *_platform;
    NSDictionary<NSString *, NSString *> *_parameters;
    void (^_parametersProvider)(RBWParametersReply reply);
    NSDictionary<NSString *, NSString *> *_headers;
    BOOL _offersSession;
    id<RBWStorage> _storage;
    NSTimeInterval _sendTimeout;
    NSTimeInterval _repeatInterval;
    NSUInteger _pendingMax;
    NSUInteger _bufferedBytesMax;
    NSUInteger _receivedBytesMax;
    NSTimeInterval _backoffMin;
    NSTimeInterval _backoffMax;
    NSTimeInterval _stableAfter;
    NSTimeInterval _openTimeout;
    NSTimeInterval _pongTimeout;
    Class _transportClass;
    NSTimeInterval (^_clock)(void);
    double (^_random)(void);
}

/// Who connects. The default is a random id: give one that stays the same, where there are sessions.
@property (nonatomic, copy) NSString *deviceID;
/// The platform: "ios", "macos", "gnustep" and so on.
@property (nonatomic, copy) NSString *platform;
/// Further query parameters for the business server, such as a token.
@property (nonatomic, copy) NSDictionary<NSString *, NSString *> *parameters;
/// Makes further parameters anew for each attempt.
@property (nonatomic, copy, nullable) void (^parametersProvider)(RBWParametersReply reply);
/// Further HTTP headers of the request.
@property (nonatomic, copy) NSDictionary<NSString *, NSString *> *headers;

/// YES: offer `rainbow.2`, which brings sessions, heartbeats, limits and reasons. NO: be a client of 2014.
@property (nonatomic) BOOL offersSession;
/// Where the ids of a session survive a restart. nil: they do not.
@property (nonatomic, strong, nullable) id<RBWStorage> storage;

/// Of a send of QoS 1 and 2, 10 s; 0 waits for ever.
@property (nonatomic) NSTimeInterval sendTimeout;
/// Between repeats of a packet, 3 s.
@property (nonatomic) NSTimeInterval repeatInterval;
/// Unanswered sends, 1024.
@property (nonatomic) NSUInteger pendingMax;
/// Unwritten bytes beyond which QoS 0 fails and nothing is repeated, 4 MiB.
@property (nonatomic) NSUInteger bufferedBytesMax;
/// The largest message from the server, 64 MiB.
@property (nonatomic) NSUInteger receivedBytesMax;

/// A reconnection waits a random part of `backoffMin` · 2ⁿ, 0.5 s, at most `backoffMax`, 30 s; n counts failures in a row.
@property (nonatomic) NSTimeInterval backoffMin;
@property (nonatomic) NSTimeInterval backoffMax;
/// A connection that lasted so long ends the row, 5 s.
@property (nonatomic) NSTimeInterval stableAfter;
/// An attempt that is not open by then has failed, 10 s.
@property (nonatomic) NSTimeInterval openTimeout;
/// A line that was silent for the server's heartbeat and for so long after it is dropped, 10 s.
@property (nonatomic) NSTimeInterval pongTimeout;

/// A class that conforms to RBWTransport. The default is NSURLSession's on Apple's systems, NSStream's elsewhere.
@property (nonatomic) Class transportClass;
/// Seconds since some moment. The default goes on while the device sleeps, and never goes back.
@property (nonatomic, copy) NSTimeInterval (^clock)(void);
/// From 0 to 1, the source of jitter.
@property (nonatomic, copy) double (^random)(void);

@end

NS_ASSUME_NONNULL_END
