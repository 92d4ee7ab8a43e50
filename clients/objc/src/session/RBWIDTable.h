// Packet ids in the order of their coming, each with a value. Foundation's ordered set would be this, but GNUstep's crashes when
// something is removed from it.

#import <Foundation/Foundation.h>

NS_ASSUME_NONNULL_BEGIN

@interface RBWIDTable : NSObject {
@private
    NSMutableArray<NSNumber *> *_order;
    NSMutableDictionary<NSNumber *, id> *_values;
}

@property (nonatomic, readonly) NSUInteger count;
/// A copy, the oldest first.
@property (nonatomic, readonly) NSArray<NSNumber *> *ids;

- (nullable id)valueOf:(NSNumber *)identifier;
/// An id that is there keeps its place.
- (void)set:(id)value of:(NSNumber *)identifier;
- (void)remove:(NSNumber *)identifier;

@end

NS_ASSUME_NONNULL_END
