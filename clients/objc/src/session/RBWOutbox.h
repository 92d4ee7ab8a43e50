// The client's own messages of QoS 1 and 2 without their last answer: it numbers, writes, repeats and settles them. It knows no
// connection: the client says when one is open and when it has ended, and writes the packets.

#import "RBWPacket.h"
#import "RBWSend.h"
#import "RBWSessionIDs.h"

NS_ASSUME_NONNULL_BEGIN

@protocol RBWPacketWriter <NSObject>
/// Lost where there is no connection.
- (void)writePacket:(RBWPacket *)packet;
/// The line is stuck: it gets no copies on top of what waits.
- (BOOL)isCongested;
- (BOOL)isOpen;
@end

@interface RBWOutbox : NSObject <RBWPendingIDs> {
@private
    RBWSessionIDs *_ids;
    NSUInteger _packetBytesMax;
    NSTimeInterval _repeatInterval;
    /// The client, which owns this.
    __unsafe_unretained id<RBWPacketWriter> _writer;
    /// In the order of `add:`.
    NSMutableArray<RBWSend *> *_sends;
    /// Those among them that have an id.
    NSMutableDictionary<NSNumber *, RBWSend *> *_pending;
}

- (instancetype)initWithRepeatInterval:(NSTimeInterval)repeatInterval writer:(id<RBWPacketWriter>)writer NS_DESIGNATED_INITIALIZER;
- (instancetype)init RBW_UNAVAILABLE;

/// Sends without their last answer.
@property (nonatomic, readonly) NSUInteger count;
/// Of the present session.
@property (nonatomic, strong) RBWSessionIDs *ids;
/// The largest packet that the server takes.
@property (nonatomic) NSUInteger packetBytesMax;

- (void)add:(RBWSend *)send;
/// ACK, REC or COM.
- (void)handleAnswer:(RBWPacket *)packet;

/// The session goes on: writes REL for what is held, then everything again with its ids.
- (void)resume;
/// There is no session, or another: writes everything with new ids.
- (void)startAfresh;
/// The connection has ended: nothing is written until one of the two above.
- (void)pause;
/// The server closed because of a message that was too large, and does not say which: the largest on the line fails.
- (void)failLargest;
/// Everything unanswered fails.
- (void)failAllWithError:(NSError *)error;

@end

NS_ASSUME_NONNULL_END
