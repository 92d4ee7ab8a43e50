// SHA-1, for the Sec-WebSocket-Accept header only (RFC 6455 section 4.2.2), where it protects nothing.

#import <Foundation/Foundation.h>

NS_ASSUME_NONNULL_BEGIN

NSData *RBWSHA1(NSData *data);

NS_ASSUME_NONNULL_END
