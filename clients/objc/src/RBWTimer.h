// Timers of this thread's run loop. They go by a clock that cannot be set: GNUstep's NSTimer goes by the time of day, so a clock
// that is set back by ten minutes would stop it for ten minutes. On Linux one descriptor wakes the run loop for all timers of a
// thread; elsewhere NSTimer does.

#import <Rainbow/RBWDefines.h>

NS_ASSUME_NONNULL_BEGIN

/// Keeps its target until it has fired, or is invalidated.
@interface RBWTimer : NSObject {
@private
    id _target;
    SEL _selector;
    id _userInfo;
    NSTimer *_timer;
    NSTimeInterval _interval;
    NSTimeInterval _dueAt;
}

/// `selector` takes the timer.
+ (RBWTimer *)timerAfter:(NSTimeInterval)delay target:(id)target selector:(SEL)selector userInfo:(nullable id)userInfo;
/// Fires again and again until it is invalidated. Times that were missed count once.
+ (RBWTimer *)timerEvery:(NSTimeInterval)interval target:(id)target selector:(SEL)selector userInfo:(nullable id)userInfo;
- (instancetype)init RBW_UNAVAILABLE;

@property (nonatomic, readonly, strong, nullable) id userInfo;

- (void)invalidate;

@end

NS_ASSUME_NONNULL_END
