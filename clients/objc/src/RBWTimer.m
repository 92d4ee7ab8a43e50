#import "RBWTimer.h"
#import "RBWOwnership.h"
#import "RBWSystem.h"

@interface RBWTimer ()
- (instancetype)initWithTarget:(id)target
                      selector:(SEL)selector
                      userInfo:(id)userInfo
                      interval:(NSTimeInterval)interval NS_DESIGNATED_INITIALIZER;
@property (nonatomic) NSTimeInterval dueAt;
@property (nonatomic, readonly) NSTimeInterval interval;
@property (nonatomic, strong, nullable) NSTimer *timer;
- (void)fire;
@end

/// As the system does it, below.
@interface RBWTimer (System)
- (void)start:(NSTimeInterval)delay;
- (void)stop;
@end

@implementation RBWTimer

@synthesize userInfo = _userInfo, dueAt = _dueAt, interval = _interval, timer = _timer;

+ (RBWTimer *)timerAfter:(NSTimeInterval)delay target:(id)target selector:(SEL)selector userInfo:(id)userInfo {
    RBWTimer *timer = [[RBWTimer alloc] initWithTarget:target selector:selector userInfo:userInfo interval:0];
    [timer start:delay];
    return RBW_AUTORELEASE(timer);
}

+ (RBWTimer *)timerEvery:(NSTimeInterval)interval target:(id)target selector:(SEL)selector userInfo:(id)userInfo {
    // An interval of nothing would fire for ever without letting anything else run.
    NSTimeInterval positive = MAX(interval, 0.001);
    RBWTimer *timer = [[RBWTimer alloc] initWithTarget:target selector:selector userInfo:userInfo interval:positive];
    [timer start:positive];
    return RBW_AUTORELEASE(timer);
}

- (instancetype)initWithTarget:(id)target selector:(SEL)selector userInfo:(id)userInfo interval:(NSTimeInterval)interval {
    if ((self = [super init])) {
        _target = RBW_RETAIN(target);
        _selector = selector;
        _userInfo = RBW_RETAIN(userInfo);
        _interval = interval;
    }
    return self;
}

- (void)dealloc {
    RBW_RELEASE(_target);
    RBW_RELEASE(_userInfo);
    RBW_RELEASE(_timer);
    RBW_SUPER_DEALLOC;
}

- (void)invalidate {
    RBW_KEEP(self);
    [self stop];
    RBW_RELEASE(_target);
    _target = nil;
}

- (void)fire {
    id target = _target;
    RBW_KEEP(target);
    RBW_KEEP_TOO(self);
    SEL selector = _selector;
    if (self.interval == 0) [self invalidate];
    if (target == nil) return;
    ((void (*)(id, SEL, RBWTimer *))[target methodForSelector:selector])(target, selector, self);
}

@end

#if !RBW_APPLE && defined(__linux__)

#include <errno.h>
#include <math.h>
#include <sys/timerfd.h>
#include <unistd.h>

/// The timers of one thread, the next one first, and the descriptor that becomes readable when it is due.
@interface RBWTimerQueue : NSObject <RunLoopEvents> {
@private
    NSMutableArray<RBWTimer *> *_timers;
    int _descriptor;
}
+ (RBWTimerQueue *)queueOfThread;
- (void)add:(RBWTimer *)timer;
- (void)remove:(RBWTimer *)timer;
@end

@implementation RBWTimer (System)

- (void)start:(NSTimeInterval)delay {
    self.dueAt = RBWUptime() + MAX(delay, 0);
    [[RBWTimerQueue queueOfThread] add:self];
}

- (void)stop {
    [[RBWTimerQueue queueOfThread] remove:self];
}

@end

@implementation RBWTimerQueue

+ (RBWTimerQueue *)queueOfThread {
    NSMutableDictionary *ofThread = [NSThread currentThread].threadDictionary;
    RBWTimerQueue *queue = [ofThread objectForKey:@"RBWTimerQueue"];
    if (queue == nil) {
        queue = RBW_AUTORELEASE([[RBWTimerQueue alloc] init]);
        [ofThread setObject:queue forKey:@"RBWTimerQueue"];
    }
    return queue;
}

- (instancetype)init {
    if ((self = [super init])) {
        _timers = [[NSMutableArray alloc] init];
        _descriptor = timerfd_create(CLOCK_BOOTTIME, TFD_NONBLOCK | TFD_CLOEXEC);
        // Out of descriptors: no connection could be made either.
        if (_descriptor < 0) [NSException raise:NSGenericException format:@"no timer: %s", strerror(errno)];
    }
    return self;
}

- (void)dealloc {
    if (_descriptor >= 0) close(_descriptor);
    RBW_RELEASE(_timers);
    RBW_SUPER_DEALLOC;
}

- (void)add:(RBWTimer *)timer {
    // A run loop ends when it has nothing to wait for, so the descriptor is watched only while there are timers.
    if (_timers.count == 0) [self watch:YES];
    [self insert:timer];
    if (_timers.firstObject == timer) [self arm];
}

/// Behind those that are due at the same time.
- (void)insert:(RBWTimer *)timer {
    NSUInteger low = 0, high = _timers.count;
    while (low < high) {
        NSUInteger middle = (low + high) / 2;
        if ([_timers objectAtIndex:middle].dueAt <= timer.dueAt) low = middle + 1;
        else high = middle;
    }
    [_timers insertObject:timer atIndex:low];
}

- (void)remove:(RBWTimer *)timer {
    NSUInteger at = [_timers indexOfObjectIdenticalTo:timer];
    if (at == NSNotFound) return;
    [_timers removeObjectAtIndex:at];
    if (_timers.count == 0) [self watch:NO];
    else if (at == 0) [self arm];
}

- (void)watch:(BOOL)isWatched {
    NSRunLoop *loop = [NSRunLoop currentRunLoop];
    void *descriptor = (void *)(intptr_t)_descriptor;
    for (NSString *mode in RBWRunLoopModes()) {
        if (isWatched) [loop addEvent:descriptor type:ET_RDESC watcher:self forMode:mode];
        else [loop removeEvent:descriptor type:ET_RDESC forMode:mode all:YES];
    }
}

- (void)arm {
    NSTimeInterval delay = MAX(_timers.firstObject.dueAt - RBWUptime(), 0);
    struct itimerspec when = {.it_value = {.tv_sec = (time_t)delay, .tv_nsec = (long)((delay - floor(delay)) * 1e9)}};
    // Zero would disarm it.
    if (when.it_value.tv_sec == 0 && when.it_value.tv_nsec == 0) when.it_value.tv_nsec = 1;
    timerfd_settime(_descriptor, 0, &when, NULL);
}

- (void)receivedEvent:(void *)data type:(RunLoopEventType)type extra:(void *)extra forMode:(NSString *)mode {
    (void)data, (void)type, (void)extra, (void)mode;
    RBW_KEEP(self);
    uint64_t expirations;
    if (read(_descriptor, &expirations, sizeof expirations) < 0 && errno != EAGAIN) return;
    NSTimeInterval now = RBWUptime();
    NSMutableArray<RBWTimer *> *due = [NSMutableArray array];
    for (RBWTimer *timer in _timers) {
        if (timer.dueAt > now) break;
        [due addObject:timer];
    }
    for (RBWTimer *timer in due) {
        // One that fired before may have invalidated it.
        if ([_timers indexOfObjectIdenticalTo:timer] == NSNotFound) continue;
        if (timer.interval > 0) {
            RBW_KEEP_TOO(timer);
            [_timers removeObjectIdenticalTo:timer];
            timer.dueAt = now + timer.interval;
            [self insert:timer];
        }
        [timer fire];
    }
    if (_timers.count > 0) [self arm];
}

@end

#else

@implementation RBWTimer (System)

- (void)start:(NSTimeInterval)delay {
    self.timer = [NSTimer timerWithTimeInterval:delay
                                         target:self
                                       selector:@selector(timerCame:)
                                       userInfo:nil
                                        repeats:self.interval > 0];
    for (NSString *mode in RBWRunLoopModes()) [[NSRunLoop currentRunLoop] addTimer:self.timer forMode:mode];
}

- (void)stop {
    [self.timer invalidate];
    self.timer = nil;
}

- (void)timerCame:(NSTimer *)timer {
    (void)timer;
    [self fire];
}

@end

#endif
