// Judges a line by a clock: silent for the server's heartbeat, it is asked; silent for about ten seconds more, it is dead.

#import <Rainbow/RBWDefines.h>

NS_ASSUME_NONNULL_BEGIN

typedef NS_ENUM(NSInteger, RBWPulse) {
    RBWPulseFine,
    /// Write PING now.
    RBWPulseAsk,
    RBWPulseDead,
};

/// Times are seconds.
@interface RBWHeartbeat : NSObject {
@private
    NSTimeInterval _heartbeat;
    NSTimeInterval _pongTimeout;
    NSTimeInterval _heardAt;
    NSTimeInterval _askedAt;
    BOOL _isAsked;
}

- (instancetype)initWithPongTimeout:(NSTimeInterval)pongTimeout NS_DESIGNATED_INITIALIZER;
- (instancetype)init RBW_UNAVAILABLE;

/// The server's; 0 judges nothing.
@property (nonatomic) NSTimeInterval heartbeat;
/// How often to judge, so that a dead line is found in time.
@property (nonatomic, readonly) NSTimeInterval judgeInterval;

- (void)heardAt:(NSTimeInterval)now;
/// A clock that was set back begins anew: time that runs backwards counts as none.
- (RBWPulse)judgeAt:(NSTimeInterval)now;

@end

NS_ASSUME_NONNULL_END
