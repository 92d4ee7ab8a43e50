#import "RBWJSON.h"

/// Apple's parser goes so deep, too.
static const NSInteger DepthMax = 512;

/// Counts brackets in strings as well: that many in a string are refused by mistake, and nobody writes them.
static BOOL isTooDeep(NSData *data) {
    const uint8_t *bytes = data.bytes;
    NSInteger depth = 0;
    for (NSUInteger at = 0; at < data.length; at++) {
        if (bytes[at] == '[' || bytes[at] == '{') depth++;
        if (bytes[at] == ']' || bytes[at] == '}') depth--;
        if (depth > DepthMax) return YES;
    }
    return NO;
}

id RBWJSONFromData(NSData *data) {
    if (data.length == 0 || isTooDeep(data)) return nil;
    @try {
        return [NSJSONSerialization JSONObjectWithData:data options:NSJSONReadingAllowFragments error:NULL];
    } @catch (NSException *exception) {
        return nil;
    }
}
