// The errors of a client, all of one domain.

#import <Rainbow/RBWMessage.h>

NS_ASSUME_NONNULL_BEGIN

RBW_EXTERN NSErrorDomain const RBWErrorDomain;

typedef NS_ERROR_ENUM(RBWErrorDomain, RBWErrorCode) {
    /// No answer came in time. The message may have arrived.
    RBWErrorTimeout = 1,
    /// The server takes no message of this size.
    RBWErrorTooLarge = 2,
    /// There is no connection, and for this message none is waited for.
    RBWErrorClosed = 3,
    /// Too many messages are unanswered.
    RBWErrorFull = 4,
    /// The business server has refused the message (`RBWErrorStatusKey`, `RBWErrorBodyKey`) or this client
    /// (`RBWErrorCloseCodeKey`, `RBWErrorReasonKey`) for good.
    RBWErrorRefused = 5,
    /// The server sent what the protocol does not know.
    RBWErrorProtocol = 6,
    /// The storage failed: ids do not survive a restart.
    RBWErrorStorage = 7,
    /// The application's parameters could not be made; the attempt has failed and another follows.
    RBWErrorParameters = 8,
} NS_SWIFT_NAME(RainbowError);

/// NSNumber: the HTTP status of the business server's answer.
RBW_EXTERN NSString *const RBWErrorStatusKey;
/// RBWBody: the body of that answer.
RBW_EXTERN NSString *const RBWErrorBodyKey;
/// NSNumber: the close code that was final.
RBW_EXTERN NSString *const RBWErrorCloseCodeKey;
/// NSString: its reason.
RBW_EXTERN NSString *const RBWErrorReasonKey;

NS_ASSUME_NONNULL_END
