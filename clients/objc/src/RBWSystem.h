// Chance and time of the operating system, which Foundation does not have in one form on both sides.

#import <Foundation/Foundation.h>

NS_ASSUME_NONNULL_BEGIN

/// From the operating system's generator: masks and keys must not be guessed (RFC 6455 section 10.3).
void RBWRandomBytes(void *bytes, size_t length);
/// From 0 to 1.
double RBWRandomFraction(void);
/// So many random bytes as lower case hex digits.
NSString *RBWRandomHex(NSUInteger length);
/// Seconds since some moment. It goes on while the device sleeps and never goes back.
NSTimeInterval RBWUptime(void);
/// "ios", "macos", "gnustep" and so on.
NSString *RBWPlatform(void);
/// Run loop modes in which a client works.
NSArray<NSString *> *RBWRunLoopModes(void);

NS_ASSUME_NONNULL_END
