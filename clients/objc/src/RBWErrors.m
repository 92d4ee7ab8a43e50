#import "RBWErrors.h"
#import "RBWOwnership.h"

NSErrorDomain const RBWErrorDomain = @"RBWErrorDomain";
NSString *const RBWErrorStatusKey = @"RBWErrorStatus";
NSString *const RBWErrorBodyKey = @"RBWErrorBody";
NSString *const RBWErrorCloseCodeKey = @"RBWErrorCloseCode";
NSString *const RBWErrorReasonKey = @"RBWErrorReason";

NSError *RBWMakeError(RBWErrorCode code, NSString *description) {
    return [NSError errorWithDomain:RBWErrorDomain code:code userInfo:@{NSLocalizedDescriptionKey: description}];
}

NSError *RBWMakeRefusal(NSInteger status, NSData *body) {
    return [NSError errorWithDomain:RBWErrorDomain
                               code:RBWErrorRefused
                           userInfo:@{
                               NSLocalizedDescriptionKey:
                                   [NSString stringWithFormat:@"refused by the business server with status %ld", (long)status],
                               RBWErrorStatusKey: @(status),
                               RBWErrorBodyKey: RBW_AUTORELEASE([[RBWBody alloc] initWithData:body]),
                           }];
}

NSError *RBWMakeFinalError(NSInteger closeCode, NSString *reason) {
    RBWErrorCode code = closeCode == RBWCloseRefused ? RBWErrorRefused : RBWErrorClosed;
    return [NSError errorWithDomain:RBWErrorDomain
                               code:code
                           userInfo:@{
                               NSLocalizedDescriptionKey:
                                   [NSString stringWithFormat:@"closed by the server for good: %ld %@", (long)closeCode, reason],
                               RBWErrorCloseCodeKey: @(closeCode),
                               RBWErrorReasonKey: reason,
                           }];
}

BOOL RBWIsFinal(NSInteger closeCode) {
    if (closeCode == RBWCloseRefused || closeCode == RBWCloseTakenOver) return YES;
    return closeCode >= 4500 && closeCode <= 4999 && closeCode != RBWCloseBusinessAway;
}
