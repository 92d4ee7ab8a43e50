#import "RBWSend.h"
#import "RBWErrors.h"
#import "RBWOwnership.h"
#import "RBWSystem.h"
#import "RBWTimer.h"

@implementation RBWSend

@synthesize data = _data, type = _type, qos = _qos, timeout = _timeout, identifier = _identifier, isWritten = _isWritten, answer = _answer,
            isRefused = _isRefused, refusalStatus = _refusalStatus, repeatTimer = _repeatTimer,
            deadlineTimer = _deadlineTimer;

- (instancetype)initWithData:(NSData *)data type:(uint16_t)type qos:(RBWQoS)qos completion:(RBWSendCompletion)completion {
    if ((self = [super init])) {
        _data = [data copy];
        _type = type;
        _qos = qos;
        RBW_SET_BLOCK(_completion, completion);
    }
    return self;
}

- (void)dealloc {
    RBW_SET_BLOCK(_completion, (RBWSendCompletion)nil);
    RBW_RELEASE(_data);
    RBW_RELEASE(_answer);
    RBW_RELEASE(_repeatTimer);
    RBW_RELEASE(_deadlineTimer);
    RBW_SUPER_DEALLOC;
}

- (void)settle {
    if (self.isRefused) return [self failWithError:RBWMakeRefusal(self.refusalStatus, self.answer ?: [NSData data])];
    RBWBody *body = RBW_AUTORELEASE([[RBWBody alloc] initWithData:self.answer ?: [NSData data]]);
    [self completeWithAnswer:body error:nil];
}

- (void)failWithError:(NSError *)error {
    [self completeWithAnswer:nil error:error];
}

- (void)completeWithAnswer:(RBWBody *)answer error:(NSError *)error {
    RBW_KEEP(self);
    RBWSendCompletion completion = nil;
    RBW_SET_BLOCK(completion, _completion);
    RBW_SET_BLOCK(_completion, (RBWSendCompletion)nil);
    if (completion != nil) completion(answer, error);
    RBW_SET_BLOCK(completion, (RBWSendCompletion)nil);
}

- (void)settleLater:(NSError *)error {
    [RBWTimer timerAfter:0 target:self selector:@selector(isLater:) userInfo:error];
}

- (void)isLater:(RBWTimer *)timer {
    NSError *error = timer.userInfo;
    if (error != nil) [self failWithError:error];
    else [self settle];
}

@end
