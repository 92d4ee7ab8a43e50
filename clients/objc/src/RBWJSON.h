// JSON from outside. GNUstep's parser raises on some texts that are none, and both parsers call themselves for each bracket.

#import <Foundation/Foundation.h>

NS_ASSUME_NONNULL_BEGIN

/// Any JSON value; nil for what is not JSON, and for brackets within brackets beyond 512. Never raises.
id _Nullable RBWJSONFromData(NSData *data);

NS_ASSUME_NONNULL_END
