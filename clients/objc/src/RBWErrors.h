// Makes the errors of RBWError.h.

#import <Rainbow/RBWError.h>

NS_ASSUME_NONNULL_BEGIN

NSError *RBWMakeError(RBWErrorCode code, NSString *description);
/// The business server refused a message.
NSError *RBWMakeRefusal(NSInteger status, NSData *body);
/// The server closed for good.
NSError *RBWMakeFinalError(NSInteger closeCode, NSString *reason);

enum {
    RBWCloseAbnormal = 1006,
    RBWCloseTooLarge = 1009,
    /// This side dropped a dead line, or an attempt that took too long.
    RBWCloseDropped = 4000,
    RBWCloseProtocol = 4002,
    /// The business server has refused this client.
    RBWCloseRefused = 4401,
    /// Another connection of this session has taken over; to come back would throw that one out.
    RBWCloseTakenOver = 4409,
    /// The business server could not be asked.
    RBWCloseBusinessAway = 4503,
};

/// How many seconds the reason of a close wants us to wait, at most a minute; negative when it does not say.
NSTimeInterval RBWRetryAfter(NSString *reason);

/// No attempt follows this close code.
BOOL RBWIsFinal(NSInteger closeCode);

NS_ASSUME_NONNULL_END
