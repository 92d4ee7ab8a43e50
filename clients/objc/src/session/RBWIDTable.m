#import "RBWIDTable.h"
#import "RBWOwnership.h"

@implementation RBWIDTable

- (instancetype)init {
    if ((self = [super init])) {
        _order = [[NSMutableArray alloc] init];
        _values = [[NSMutableDictionary alloc] init];
    }
    return self;
}

- (void)dealloc {
    RBW_RELEASE(_order);
    RBW_RELEASE(_values);
    RBW_SUPER_DEALLOC;
}

- (NSUInteger)count {
    return _order.count;
}

- (NSArray<NSNumber *> *)ids {
    return RBW_AUTORELEASE([_order copy]);
}

- (id)valueOf:(NSNumber *)identifier {
    return [_values objectForKey:identifier];
}

- (void)set:(id)value of:(NSNumber *)identifier {
    if ([_values objectForKey:identifier] == nil) [_order addObject:identifier];
    [_values setObject:value forKey:identifier];
}

- (void)remove:(NSNumber *)identifier {
    if ([_values objectForKey:identifier] == nil) return;
    [_values removeObjectForKey:identifier];
    // From the front: ids go about in the order in which they came.
    [_order removeObjectAtIndex:[_order indexOfObject:identifier]];
}

@end
