#import "RBWAddress.h"

static NSString *encoded(NSString *text);

NSURL *RBWConnectURL(NSURL *url) {
    NSURL *absolute = url.absoluteURL;
    NSDictionary<NSString *, NSString *> *schemes = @{@"ws": @"ws", @"wss": @"wss", @"http": @"ws", @"https": @"wss"};
    NSString *scheme = [schemes objectForKey:absolute.scheme.lowercaseString ?: @""];
    if (scheme == nil || absolute.host.length == 0) return nil;
    NSString *text = [absolute.absoluteString componentsSeparatedByString:@"#"].firstObject;
    NSString *rest = [text substringFromIndex:NSMaxRange([text rangeOfString:@"://"])];
    NSString *query = @"";
    NSRange mark = [rest rangeOfString:@"?"];
    if (mark.location != NSNotFound) {
        query = [rest substringFromIndex:mark.location];
        rest = [rest substringToIndex:mark.location];
    }
    NSRange slash = [rest rangeOfString:@"/"];
    if (slash.location == NSNotFound) rest = [rest stringByAppendingString:@"/connect/"];
    else if (NSMaxRange(slash) == rest.length) rest = [rest stringByAppendingString:@"connect/"];
    return [NSURL URLWithString:[NSString stringWithFormat:@"%@://%@%@", scheme, rest, query]];
}

NSURL *RBWURLWithParameters(NSURL *url, NSDictionary<NSString *, NSString *> *parameters) {
    NSMutableString *text = [NSMutableString stringWithString:url.absoluteString];
    NSString *separator = [text rangeOfString:@"?"].location == NSNotFound ? @"?" : @"&";
    for (NSString *name in [parameters.allKeys sortedArrayUsingSelector:@selector(compare:)]) {
        [text appendFormat:@"%@%@=%@", separator, encoded(name), encoded([parameters objectForKey:name])];
        separator = @"&";
    }
    return [NSURL URLWithString:text];
}

/// RFC 3986 section 2.3: all but the unreserved characters.
static NSString *encoded(NSString *text) {
    NSMutableString *out = [NSMutableString string];
    NSData *data = [text dataUsingEncoding:NSUTF8StringEncoding];
    const uint8_t *bytes = data.bytes;
    for (NSUInteger at = 0; at < data.length; at++) {
        uint8_t byte = bytes[at];
        BOOL isLetter = (byte >= 'a' && byte <= 'z') || (byte >= 'A' && byte <= 'Z') || (byte >= '0' && byte <= '9');
        if (isLetter || strchr("-._~", byte) != NULL) [out appendFormat:@"%c", byte];
        else [out appendFormat:@"%%%02X", byte];
    }
    return out;
}
