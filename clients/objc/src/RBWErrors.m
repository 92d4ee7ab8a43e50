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

NSTimeInterval RBWRetryAfter(NSString *reason) {
    NSRange key = [reason rangeOfString:@"retry_after=" options:NSBackwardsSearch];
    if (key.length == 0) return -1;
    if (key.location > 0 && ![[reason substringToIndex:key.location] hasSuffix:@"; "]) return -1;
    NSString *told = [reason substringFromIndex:NSMaxRange(key)];
    NSArray<NSString *> *parts = [told componentsSeparatedByString:@"."];
    if (parts.count > 2) return -1;
    NSCharacterSet *others = [[NSCharacterSet characterSetWithCharactersInString:@"0123456789"] invertedSet];
    for (NSString *digits in parts) {
        if (digits.length == 0 || digits.length > 9 || [digits rangeOfCharacterFromSet:others].length > 0) return -1;
    }
    // Whatever a server says, nobody is away for longer.
    return MIN(told.doubleValue, 60);
}
