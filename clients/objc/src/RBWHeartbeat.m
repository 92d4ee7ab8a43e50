#import "RBWHeartbeat.h"

/// The line is judged this often within the shorter of its two times, and dead after this part of the second: together with
/// two judgements that come late that is within the second.
static const double JudgementsEach = 8, DeadAfter = 0.7;

@implementation RBWHeartbeat

@synthesize heartbeat = _heartbeat;

- (instancetype)initWithPongTimeout:(NSTimeInterval)pongTimeout {
    if ((self = [super init])) _pongTimeout = pongTimeout;
    return self;
}

- (NSTimeInterval)judgeInterval {
    return MIN(self.heartbeat, _pongTimeout) / JudgementsEach;
}

- (void)heardAt:(NSTimeInterval)now {
    _heardAt = now;
    _isAsked = NO;
}

- (RBWPulse)judgeAt:(NSTimeInterval)now {
    if (self.heartbeat <= 0) return RBWPulseFine;
    _heardAt = MIN(_heardAt, now);
    _askedAt = MIN(_askedAt, now);
    if (now - _heardAt < self.heartbeat) {
        _isAsked = NO;
        return RBWPulseFine;
    }
    if (_isAsked) return now - _askedAt >= _pongTimeout * DeadAfter ? RBWPulseDead : RBWPulseFine;
    _isAsked = YES;
    _askedAt = now;
    return RBWPulseAsk;
}

@end
