#import "RBWResolver.h"

#if !RBW_APPLE

#import "RBWOwnership.h"
#import "RBWSystem.h"

#include <netdb.h>
#include <sys/socket.h>

@implementation RBWResolver

+ (void)resolve:(NSString *)name for:(id<RBWResolverDelegate>)delegate {
    // GCC's runtime holds one lock while a class makes itself ready, and GNUstep takes another meanwhile: two threads that are
    // the first users of two classes can wait for each other for ever. So the thread is the first user of none.
    [NSHost class];
    [NSRunLoop currentRunLoop];
    [NSThread currentThread];
    RBWResolver *resolver = RBW_AUTORELEASE([[RBWResolver alloc] initWithName:name delegate:delegate]);
    [NSThread detachNewThreadSelector:@selector(run) toTarget:resolver withObject:nil];
}

- (instancetype)initWithName:(NSString *)name delegate:(id<RBWResolverDelegate>)delegate {
    if ((self = [super init])) {
        _name = [name copy];
        _thread = RBW_RETAIN([NSThread currentThread]);
        _delegate = RBW_RETAIN(delegate);
    }
    return self;
}

- (void)dealloc {
    RBW_RELEASE(_name);
    RBW_RELEASE(_thread);
    RBW_RELEASE(_delegate);
    RBW_RELEASE(_hosts);
    RBW_SUPER_DEALLOC;
}

- (void)run {
    @autoreleasepool {
        _hosts = [[self find] copy];
        [self performSelector:@selector(tell) onThread:_thread withObject:nil waitUntilDone:NO modes:RBWRunLoopModes()];
    }
}

- (NSArray<NSHost *> *)find {
    NSMutableArray<NSHost *> *hosts = [NSMutableArray array];
    struct addrinfo hints = {.ai_socktype = SOCK_STREAM, .ai_family = AF_UNSPEC}, *found = NULL;
    if (getaddrinfo(_name.UTF8String, NULL, &hints, &found) != 0) return hosts;
    for (struct addrinfo *one = found; one != NULL; one = one->ai_next) {
        char text[NI_MAXHOST];
        int failed = getnameinfo(one->ai_addr, one->ai_addrlen, text, sizeof text, NULL, 0, NI_NUMERICHOST);
        // This may ask for the address's name, which is another reason to be on a thread.
        NSHost *host = failed ? nil : [NSHost hostWithAddress:[NSString stringWithUTF8String:text]];
        if (host != nil) [hosts addObject:host];
    }
    freeaddrinfo(found);
    return hosts;
}

- (void)tell {
    [_delegate resolverDidFind:_hosts];
}

@end

#endif
