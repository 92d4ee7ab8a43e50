// Finds the addresses of a host on a thread of its own, since GNUstep's streams would stop the run loop for it. Apple's streams
// resolve by themselves and have no use for it.

#import <Foundation/Foundation.h>

NS_ASSUME_NONNULL_BEGIN

@protocol RBWResolverDelegate <NSObject>
/// Hosts with one address each, in the order to try; none when the name is not known.
- (void)resolverDidFind:(NSArray<NSHost *> *)hosts;
@end

@interface RBWResolver : NSObject {
@private
    NSString *_name;
    id<RBWResolverDelegate> _delegate;
    NSThread *_thread;
    NSArray<NSHost *> *_hosts;
}

/// Tells `delegate` on the thread that calls this. Until then both are kept.
+ (void)resolve:(NSString *)name for:(id<RBWResolverDelegate>)delegate;

@end

NS_ASSUME_NONNULL_END
