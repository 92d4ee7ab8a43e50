#import "check.h"
#import "RBWOwnership.h"
#import "RBWTimer.h"

static NSString *place;
static BOOL hasFailed;

void at(NSString *now) {
    RBW_RELEASE(place);
    place = [now copy];
}

void fail(const char *file, int line, NSString *what) {
    hasFailed = YES;
    fprintf(stderr, "    %s:%d: %s%s%s\n", file, line, place.UTF8String ?: "", place == nil ? "" : ": ", what.UTF8String);
}

int runTests(const Test *tests, size_t count) {
    size_t failed = 0;
    for (size_t index = 0; index < count; index++) {
        @autoreleasepool {
            hasFailed = NO;
            at(nil);
            tests[index].run();
            printf("%s  %s\n", hasFailed ? "FAIL" : "ok  ", tests[index].name);
            failed += hasFailed;
        }
    }
    printf("%zu passed, %zu failed\n", count - failed, failed);
    fflush(stdout);
    return failed > 0;
}

void turn(NSTimeInterval seconds) {
    @autoreleasepool {
        [[NSRunLoop currentRunLoop] runUntilDate:[NSDate dateWithTimeIntervalSinceNow:seconds]];
    }
}

NSData *fromHex(NSString *hex) {
    NSMutableData *data = [NSMutableData data];
    for (NSUInteger index = 0; index + 1 < hex.length; index += 2) {
        uint8_t byte = (uint8_t)strtoul([hex substringWithRange:NSMakeRange(index, 2)].UTF8String, NULL, 16);
        [data appendBytes:&byte length:1];
    }
    return data;
}

NSString *toHex(NSData *data) {
    NSMutableString *hex = [NSMutableString string];
    const uint8_t *bytes = data.bytes;
    for (NSUInteger index = 0; index < data.length; index++) [hex appendFormat:@"%02x", bytes[index]];
    return hex;
}

NSDictionary *vectors(NSString *name) {
    NSData *data = [NSData dataWithContentsOfFile:[@"../vectors" stringByAppendingPathComponent:name]];
    NSDictionary *found = data == nil ? nil : [NSJSONSerialization JSONObjectWithData:data options:0 error:NULL];
    if (found == nil) [NSException raise:NSGenericException format:@"no ../vectors/%@", name];
    return found;
}
