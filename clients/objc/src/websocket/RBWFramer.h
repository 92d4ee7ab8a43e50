// The client's half of WebSocket framing, RFC 6455 section 5, without IO: bytes from the server go in, messages come out. Also
// builds the frames that a client sends. Nothing that comes in makes it raise: what is wrong becomes a violation.

#import <Rainbow/RBWDefines.h>

NS_ASSUME_NONNULL_BEGIN

typedef NS_ENUM(NSInteger, RBWFrameEvent) {
    /// There is no whole frame: append more.
    RBWFrameNeedMore,
    /// A whole message, text or binary, in `payload`.
    RBWFrameMessage,
    /// `payload` belongs into a pong.
    RBWFramePing,
    RBWFramePong,
    /// `closeCode` and `closeReason`. Nothing follows.
    RBWFrameClose,
    /// The server broke the protocol: end with `closeCode` and `closeReason`. Nothing follows.
    RBWFrameViolation,
};

typedef NS_ENUM(uint8_t, RBWOpcode) {
    RBWOpcodeContinuation = 0x0,
    RBWOpcodeText = 0x1,
    RBWOpcodeBinary = 0x2,
    RBWOpcodeClose = 0x8,
    RBWOpcodePing = 0x9,
    RBWOpcodePong = 0xa,
};

@interface RBWFramer : NSObject {
@private
    NSData *_payload;
    NSInteger _closeCode;
    NSString *_closeReason;
    NSUInteger _messageBytesMax;
    //  buffer   | read | a part of the next frames |
    //                  ^ position
    NSMutableData *_buffer;
    NSUInteger _position;
    /// Fragments of the message that has begun; nil between messages.
    NSMutableData *_message;
    RBWOpcode _messageOpcode;
    BOOL _hasEnded;
}

/// `messageBytesMax`: the sum over a message's fragments, judged before the bytes are here.
- (instancetype)initWithMessageBytesMax:(NSUInteger)messageBytesMax NS_DESIGNATED_INITIALIZER;
- (instancetype)init RBW_UNAVAILABLE;

- (void)appendBytes:(const void *)bytes length:(NSUInteger)length;
/// The next event; call it until it needs more.
- (RBWFrameEvent)nextEvent;

@property (nonatomic, readonly, strong) NSData *payload;
@property (nonatomic, readonly) NSInteger closeCode;
@property (nonatomic, readonly, copy) NSString *closeReason;

/// One frame, masked with fresh random bytes.
+ (NSData *)frameWithOpcode:(RBWOpcode)opcode payload:(NSData *)payload;
/// The reason is cut to what a control frame holds. A code that must not be sent, such as 1006, makes an empty close.
+ (NSData *)closeFrameWithCode:(NSInteger)code reason:(NSString *)reason;

@end

NS_ASSUME_NONNULL_END
