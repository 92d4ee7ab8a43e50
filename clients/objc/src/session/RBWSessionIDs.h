// What a client must remember of one session: ids in use, in both directions (PROTOCOL.md, "What to keep"). A storage makes
// them survive the application. The outbox takes ids from it, the inbox looks up what came before.

#import <Rainbow/RBWStorage.h>
#import <Rainbow/RBWMessage.h>

@class RBWIDTable;

NS_ASSUME_NONNULL_BEGIN

/// Whether one of the client's own sends has this id.
@protocol RBWPendingIDs <NSObject>
- (BOOL)isPending:(uint16_t)identifier;
@end

@protocol RBWStorageFaults <NSObject>
/// The storage failed, and is not used any more.
- (void)storageFailed:(NSError *)error;
@end

@interface RBWSessionIDs : NSObject {
@private
    id<RBWStorage> _storage;
    RBW_WEAK_IVAR id<RBWStorageFaults> _faults;
    NSString *_session;
    uint16_t _lastID;
    /// Ids up to this one may have been used, as far as the storage knows.
    uint16_t _reservedID;
    RBWIDTable *_held;
    /// By QoS: the reply, or NSNull while the message is handled. The first is not used.
    RBWIDTable *_received[3];
}

/// For a session that begins, or (`session` nil) a connection without one.
- (instancetype)initWithSession:(nullable NSString *)session
                        storage:(nullable id<RBWStorage>)storage
                         lastID:(uint16_t)lastID NS_DESIGNATED_INITIALIZER;
- (instancetype)init RBW_UNAVAILABLE;
/// For a session that goes on, with what was saved of it. Where nothing was, ids begin anywhere: `fraction` is from 0 to 1.
+ (RBWSessionIDs *)restoredForSession:(NSString *)session storage:(nullable id<RBWStorage>)storage fraction:(double)fraction;

@property (nonatomic, RBW_WEAK, nullable) id<RBWStorageFaults> faults;
/// Names the session that the ids belong to.
@property (nonatomic, readonly, copy, nullable) NSString *session;
@property (nonatomic, readonly) uint16_t lastID;

/// Writes down that the session is this client's, before any of its ids is used.
- (void)begin;

// The client's own ids.

/// The next id that is free on both sides.
- (uint16_t)takeIDBeside:(id<RBWPendingIDs>)pending;
/// Of a QoS 2 message: the server may hold it until it hears REL.
- (void)hold:(uint16_t)identifier beside:(id<RBWPendingIDs>)pending;
- (void)letGo:(uint16_t)identifier;
/// In the order of use.
- (NSArray<NSNumber *> *)heldIDs;

// The server's ids, for QoS 1 and 2.

/// A message that is being handled.
- (void)beginReceived:(uint16_t)identifier qos:(RBWQoS)qos;
- (BOOL)hasReceived:(uint16_t)identifier qos:(RBWQoS)qos;
/// nil while the message is being handled.
- (nullable NSData *)replyTo:(uint16_t)identifier qos:(RBWQoS)qos;
/// It is handled. Returns when that is saved.
- (void)finishReceived:(uint16_t)identifier qos:(RBWQoS)qos reply:(NSData *)reply;
/// REL has come.
- (void)forgetReceived:(uint16_t)identifier;
/// QoS 2, handled, without REL.
- (NSArray<NSNumber *> *)receivedIDs;
/// No server has so many in flight: the next one is not taken.
- (BOOL)isFull;

@end

NS_ASSUME_NONNULL_END
