// What a client hands to the application: bodies, messages, how a connection began and how it ended. All are immutable.

#import <Rainbow/RBWDefines.h>

NS_ASSUME_NONNULL_BEGIN

typedef NS_ENUM(NSInteger, RBWQoS) {
    /// Sent once and never repeated. Without a connection it fails.
    RBWQoSAtMostOnce = 0,
    /// Repeated until the other side has acknowledged it.
    RBWQoSAtLeastOnce = 1,
    /// As above, and handed on once. Over reconnections that needs a session, which the business server names.
    RBWQoSExactlyOnce = 2,
} NS_SWIFT_NAME(RainbowQoS);

/// Bytes, seen as text or as JSON.
NS_SWIFT_NAME(RainbowBody)
@interface RBWBody : NSObject {
@private
    NSData *_data;
}

@property (nonatomic, readonly, copy) NSData *data;
/// nil for what is not UTF-8.
@property (nonatomic, readonly, nullable) NSString *text;
/// nil for an empty body and for what is not JSON. A JSON `null` is NSNull.
@property (nonatomic, readonly, nullable) id JSONObject;

- (instancetype)initWithData:(NSData *)data NS_DESIGNATED_INITIALIZER;
- (instancetype)init RBW_UNAVAILABLE;

@end

/// A message from the server.
NS_SWIFT_NAME(RainbowMessage)
@interface RBWMessage : RBWBody {
@private
    uint16_t _type;
    RBWQoS _qos;
    uint16_t _identifier;
    BOOL _duplicate;
}

@property (nonatomic, readonly) uint16_t type;
@property (nonatomic, readonly) RBWQoS qos;
/// The packet's id, 1 to 65534; 0 with QoS 0.
@property (nonatomic, readonly) uint16_t identifier;
/// The server has sent it before. It may not have come.
@property (nonatomic, readonly, getter=isDuplicate) BOOL duplicate;

- (instancetype)initWithData:(NSData *)data
                        type:(uint16_t)type
                         qos:(RBWQoS)qos
                  identifier:(uint16_t)identifier
                   duplicate:(BOOL)duplicate NS_DESIGNATED_INITIALIZER;
- (instancetype)initWithData:(NSData *)data RBW_UNAVAILABLE;

@end

/// How a connection began. A server without `rainbow.2` does not greet: then nothing is known.
NS_SWIFT_NAME(RainbowGreeting)
@interface RBWGreeting : NSObject {
@private
    NSString *_session;
    NSString *_sessionID;
    BOOL _resumed;
    NSUInteger _waiting;
    NSString *_identity;
    NSTimeInterval _heartbeat;
    NSUInteger _messageBytesMax;
}

/// The name of the durable session.
@property (nonatomic, readonly, copy, nullable) NSString *session;
/// Another one when a session of that name was made anew.
@property (nonatomic, readonly, copy, nullable) NSString *sessionID;
/// The session existed before this connection.
@property (nonatomic, readonly, getter=isResumed) BOOL resumed;
/// Messages that were kept for this client.
@property (nonatomic, readonly) NSUInteger waiting;
/// The name of this connection, 64 hex digits.
@property (nonatomic, readonly, copy, nullable) NSString *identity;
/// Seconds; 0 when the server did not say.
@property (nonatomic, readonly) NSTimeInterval heartbeat;
/// The largest packet that the server takes, header included; NSUIntegerMax when the server did not say.
@property (nonatomic, readonly) NSUInteger messageBytesMax;

/// That of a server which does not greet.
- (instancetype)init NS_DESIGNATED_INITIALIZER;
/// nil for what is no greeting. Unknown fields are left out.
- (nullable instancetype)initWithData:(NSData *)data;

@end

/// How a connection, or an attempt, ended.
NS_SWIFT_NAME(RainbowClosing)
@interface RBWClosing : NSObject {
@private
    NSInteger _code;
    NSString *_reason;
    NSNumber *_retryDelay;
}

/// The WebSocket close code; 1006 for a line that broke and for an attempt that failed.
@property (nonatomic, readonly) NSInteger code;
@property (nonatomic, readonly, copy) NSString *reason;
/// Seconds until the next attempt; nil when none follows.
@property (nonatomic, readonly, nullable) NSNumber *retryDelay;

- (instancetype)initWithCode:(NSInteger)code
                      reason:(NSString *)reason
                  retryDelay:(nullable NSNumber *)retryDelay NS_DESIGNATED_INITIALIZER;
- (instancetype)init RBW_UNAVAILABLE;

@end

NS_ASSUME_NONNULL_END
