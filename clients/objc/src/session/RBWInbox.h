// Messages from the server: it tells repeats from new ones, hands the new ones on once, and answers when they are handled.

#import "RBWOutbox.h"
#import "RBWPacket.h"
#import "RBWSessionIDs.h"

NS_ASSUME_NONNULL_BEGIN

@protocol RBWMessageTaker <RBWPacketWriter>
/// Hands a message to the application, which calls `reply` when it has handled it.
- (void)takeMessage:(RBWMessage *)message reply:(RBWReply)reply;
/// A message that is neither handed on nor answered: the server has more in flight than any does.
- (void)overflowed;
@end

@interface RBWInbox : NSObject {
@private
    RBWSessionIDs *_ids;
    /// The client, which owns this.
    __unsafe_unretained id<RBWMessageTaker> _taker;
}

- (instancetype)initWithTaker:(id<RBWMessageTaker>)taker NS_DESIGNATED_INITIALIZER;
- (instancetype)init RBW_UNAVAILABLE;

/// Of the present session. A message that was handed on under others is not answered any more.
@property (nonatomic, strong) RBWSessionIDs *ids;

/// A SEND.
- (void)handleMessage:(RBWPacket *)packet;
/// REL. An id that is not known is answered too: the server repeats REL until it hears COM.
- (void)handleRelease:(RBWPacket *)packet;
/// The session goes on: writes REC for every QoS 2 message that was handled and not released.
- (void)resume;
/// The client is gone: replies that come later find nobody.
- (void)detach;

@end

NS_ASSUME_NONNULL_END
