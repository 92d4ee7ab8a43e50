// The URL of an attempt: the application's, with the query parameters that say who connects.

#import <Foundation/Foundation.h>

NS_ASSUME_NONNULL_BEGIN

/// ws(s) or http(s) with a host; nil for anything else. An empty path becomes /connect/.
NSURL *_Nullable RBWConnectURL(NSURL *url);
/// Adds parameters, percent-encoded, in the order of their names.
NSURL *RBWURLWithParameters(NSURL *url, NSDictionary<NSString *, NSString *> *parameters);

NS_ASSUME_NONNULL_END
