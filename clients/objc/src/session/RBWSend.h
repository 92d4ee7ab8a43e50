// A message that waits for its answer, over several connections where it must. The outbox owns it.

#import <Rainbow/RBWClient.h>

@class RBWTimer;

NS_ASSUME_NONNULL_BEGIN

@interface RBWSend : NSObject {
@private
    NSData *_data;
    uint16_t _type;
    RBWQoS _qos;
    NSTimeInterval _timeout;
    uint16_t _identifier;
    BOOL _isWritten;
    NSData *_answer;
    BOOL _isRefused;
    NSInteger _refusalStatus;
    RBWTimer *_repeatTimer;
    RBWTimer *_deadlineTimer;
    RBWSendCompletion _completion;
}

- (instancetype)initWithData:(NSData *)data
                        type:(uint16_t)type
                         qos:(RBWQoS)qos
                  completion:(nullable RBWSendCompletion)completion NS_DESIGNATED_INITIALIZER;
- (instancetype)init RBW_UNAVAILABLE;

@property (nonatomic, readonly, strong) NSData *data;
@property (nonatomic, readonly) uint16_t type;
@property (nonatomic, readonly) RBWQoS qos;
/// Seconds; 0 waits for ever.
@property (nonatomic) NSTimeInterval timeout;
/// 0 until it is written first, so that ids on the line have no gaps.
@property (nonatomic) uint16_t identifier;
@property (nonatomic) BOOL isWritten;
/// ACK or REC has come, with this body.
@property (nonatomic, strong, nullable) NSData *answer;
@property (nonatomic) BOOL isRefused;
@property (nonatomic) NSInteger refusalStatus;
@property (nonatomic, strong, nullable) RBWTimer *repeatTimer;
@property (nonatomic, strong, nullable) RBWTimer *deadlineTimer;

/// Calls the completion with the answer, which is here. Only the first call of these does anything.
- (void)settle;
- (void)failWithError:(NSError *)error;
/// The same on the run loop's next turn, for what is decided within a call of the application's.
- (void)settleLater:(nullable NSError *)error;

@end

NS_ASSUME_NONNULL_END
