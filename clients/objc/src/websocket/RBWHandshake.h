// The client's opening handshake, RFC 6455 section 4.1, without IO: the request as bytes, and a judgement of the answer.

#import <Rainbow/RBWDefines.h>

NS_ASSUME_NONNULL_BEGIN

typedef NS_ENUM(NSInteger, RBWHandshakeResult) {
    RBWHandshakeNeedMore,
    /// The line is open. `subprotocol` was chosen, and `rest` came behind the head.
    RBWHandshakeOpen,
    /// Another answer than 101, with `status`.
    RBWHandshakeStatus,
    /// What came is no answer, or none to this request; `failure` says why.
    RBWHandshakeFailed,
};

@interface RBWHandshake : NSObject {
@private
    NSString *_subprotocol;
    NSInteger _status;
    NSString *_failure;
    NSData *_rest;
    NSData *_requestData;
    NSArray<NSString *> *_subprotocols;
    NSString *_key;
    NSMutableData *_head;
}

- (instancetype)initWithRequest:(NSURLRequest *)request subprotocols:(NSArray<NSString *> *)subprotocols NS_DESIGNATED_INITIALIZER;
- (instancetype)init RBW_UNAVAILABLE;

/// The head to send.
@property (nonatomic, readonly, strong) NSData *requestData;

- (RBWHandshakeResult)appendBytes:(const void *)bytes length:(NSUInteger)length;

@property (nonatomic, readonly, copy, nullable) NSString *subprotocol;
@property (nonatomic, readonly) NSInteger status;
@property (nonatomic, readonly, copy) NSString *failure;
@property (nonatomic, readonly, strong) NSData *rest;

/// The value of Sec-WebSocket-Accept that fits a key.
+ (NSString *)acceptForKey:(NSString *)key;

@end

NS_ASSUME_NONNULL_END
