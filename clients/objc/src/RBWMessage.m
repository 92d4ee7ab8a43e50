#import <Rainbow/RBWMessage.h>

#import "RBWJSON.h"
#import "RBWOwnership.h"

static id ofClass(Class class, id value);
static BOOL isBoolean(id value);
static double positive(id value);

@implementation RBWBody

@synthesize data = _data;

- (instancetype)initWithData:(NSData *)data {
    if ((self = [super init])) _data = [data copy];
    return self;
}

- (void)dealloc {
    RBW_RELEASE(_data);
    RBW_SUPER_DEALLOC;
}

- (NSString *)text {
    return RBW_AUTORELEASE([[NSString alloc] initWithData:self.data encoding:NSUTF8StringEncoding]);
}

- (id)JSONObject {
    return RBWJSONFromData(self.data);
}

- (NSString *)description {
    return [NSString stringWithFormat:@"<%@: %@>", self.class, self.text ?: self.data];
}

@end

@implementation RBWMessage

@synthesize type = _type, qos = _qos, identifier = _identifier, duplicate = _duplicate;

- (instancetype)initWithData:(NSData *)data
                        type:(uint16_t)type
                         qos:(RBWQoS)qos
                  identifier:(uint16_t)identifier
                   duplicate:(BOOL)duplicate {
    if ((self = [super initWithData:data])) {
        _type = type;
        _qos = qos;
        _identifier = identifier;
        _duplicate = duplicate;
    }
    return self;
}

@end

@implementation RBWGreeting

@synthesize session = _session, sessionID = _sessionID, resumed = _resumed, waiting = _waiting, identity = _identity,
            heartbeat = _heartbeat, messageBytesMax = _messageBytesMax;

- (instancetype)init {
    if ((self = [super init])) _messageBytesMax = NSUIntegerMax;
    return self;
}

- (instancetype)initWithData:(NSData *)data {
    if ((self = [self init])) {
        NSDictionary *fields = RBWJSONFromData(data);
        if (![fields isKindOfClass:[NSDictionary class]] || !isBoolean([fields objectForKey:@"resumed"])) {
            RBW_RELEASE(self);
            return nil;
        }
        _session = [ofClass([NSString class], [fields objectForKey:@"session"]) copy];
        _sessionID = [ofClass([NSString class], [fields objectForKey:@"session_id"]) copy];
        _resumed = [[fields objectForKey:@"resumed"] boolValue] && _session != nil;
        _waiting = (NSUInteger)positive([fields objectForKey:@"waiting"]);
        _identity = [ofClass([NSString class], [fields objectForKey:@"identity"]) copy];
        _heartbeat = positive([fields objectForKey:@"heartbeat"]);
        double bytesMax = positive([fields objectForKey:@"message_bytes_max"]);
        if (bytesMax > 0) _messageBytesMax = (NSUInteger)bytesMax;
    }
    return self;
}

- (void)dealloc {
    RBW_RELEASE(_session);
    RBW_RELEASE(_sessionID);
    RBW_RELEASE(_identity);
    RBW_SUPER_DEALLOC;
}

static id ofClass(Class class, id value) {
    return [value isKindOfClass:class] ? value : nil;
}

static BOOL isBoolean(id value) {
    // JSON's true and false are NSNumbers, as 1 and 0 are; nothing else tells them apart on every system.
    return [value isKindOfClass:[NSNumber class]] && ([value doubleValue] == 0 || [value doubleValue] == 1);
}

/// A number from 0 to 2⁵³; 0 for all else.
static double positive(id value) {
    double number = [ofClass([NSNumber class], value) doubleValue];
    return number > 0 && number <= 9007199254740992.0 ? number : 0;
}

@end

@implementation RBWClosing

@synthesize code = _code, reason = _reason, retryDelay = _retryDelay;

- (instancetype)initWithCode:(NSInteger)code reason:(NSString *)reason retryDelay:(NSNumber *)retryDelay {
    if ((self = [super init])) {
        _code = code;
        _reason = [reason copy];
        _retryDelay = [retryDelay copy];
    }
    return self;
}

- (void)dealloc {
    RBW_RELEASE(_reason);
    RBW_RELEASE(_retryDelay);
    RBW_SUPER_DEALLOC;
}

@end
