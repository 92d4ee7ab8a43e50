#import <Rainbow/RBWDefines.h>

#import "RBWSystem.h"

#include <time.h>

#if RBW_APPLE
#import <TargetConditionals.h>
#else
#include <errno.h>
#include <sys/random.h>
#endif

void RBWRandomBytes(void *bytes, size_t length) {
#if RBW_APPLE
    arc4random_buf(bytes, length);
#else
    uint8_t *at = bytes;
    while (length > 0) {
        ssize_t got = getrandom(at, length, 0);
        if (got < 0 && errno == EINTR) continue;
        // Without it nothing that needs chance may go on. Linux has had it since 3.17.
        if (got < 0) abort();
        at += got;
        length -= (size_t)got;
    }
#endif
}

double RBWRandomFraction(void) {
    uint64_t bits;
    RBWRandomBytes(&bits, sizeof bits);
    // As many bits as a double holds exactly.
    return (double)(bits >> 11) / (double)(1ULL << 53);
}

NSString *RBWRandomHex(NSUInteger length) {
    NSMutableString *hex = [NSMutableString stringWithCapacity:2 * length];
    for (NSUInteger at = 0; at < length; at++) {
        uint8_t byte;
        RBWRandomBytes(&byte, 1);
        [hex appendFormat:@"%02x", byte];
    }
    return hex;
}

NSTimeInterval RBWUptime(void) {
    struct timespec now;
#if RBW_APPLE
    // Unlike Linux's clock of that name it counts sleep.
    clock_gettime(CLOCK_MONOTONIC, &now);
#else
    clock_gettime(CLOCK_BOOTTIME, &now);
#endif
    return (NSTimeInterval)now.tv_sec + (NSTimeInterval)now.tv_nsec / 1e9;
}

NSString *RBWPlatform(void) {
#if !RBW_APPLE
    return @"gnustep";
#elif TARGET_OS_WATCH
    return @"watchos";
#elif TARGET_OS_TV
    return @"tvos";
#elif TARGET_OS_IPHONE
    return @"ios";
#else
    return @"macos";
#endif
}

NSArray<NSString *> *RBWRunLoopModes(void) {
#if RBW_APPLE
    return @[NSRunLoopCommonModes];
#else
    // GNUstep's streams do not know the common modes.
    return @[NSDefaultRunLoopMode];
#endif
}
