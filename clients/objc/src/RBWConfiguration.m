#import <Rainbow/RBWConfiguration.h>
#import <Rainbow/RBWTransport.h>

#import "RBWOwnership.h"
#import "RBWSystem.h"

static Class defaultTransportClass(void);

@implementation RBWConfiguration

@synthesize deviceID = _deviceID, platform = _platform, parameters = _parameters, parametersProvider = _parametersProvider,
            headers = _headers, offersSession = _offersSession, storage = _storage, sendTimeout = _sendTimeout,
            repeatInterval = _repeatInterval, pendingMax = _pendingMax, bufferedBytesMax = _bufferedBytesMax,
            receivedBytesMax = _receivedBytesMax, backoffMin = _backoffMin, backoffMax = _backoffMax,
            stableAfter = _stableAfter, openTimeout = _openTimeout, pongTimeout = _pongTimeout,
            transportClass = _transportClass, clock = _clock, random = _random;

- (instancetype)init {
    if ((self = [super init])) {
        _deviceID = [RBWRandomHex(16) copy];
        _platform = [RBWPlatform() copy];
        _parameters = [@{} copy];
        _headers = [@{} copy];
        _offersSession = YES;
        _sendTimeout = 10;
        _repeatInterval = 3;
        _pendingMax = 1024;
        _bufferedBytesMax = 4 << 20;
        _receivedBytesMax = 64 << 20;
        _backoffMin = 0.5;
        _backoffMax = 30;
        _stableAfter = 5;
        _openTimeout = 10;
        _pongTimeout = 10;
        _transportClass = defaultTransportClass();
        self.clock = ^{ return RBWUptime(); };
        self.random = ^{ return RBWRandomFraction(); };
    }
    return self;
}

- (void)dealloc {
    RBW_RELEASE(_deviceID);
    RBW_RELEASE(_platform);
    RBW_RELEASE(_parameters);
    RBW_RELEASE(_headers);
    RBW_RELEASE(_storage);
    self.parametersProvider = nil;
    RBW_SET_BLOCK(_clock, (NSTimeInterval (^)(void))nil);
    RBW_SET_BLOCK(_random, (double (^)(void))nil);
    RBW_SUPER_DEALLOC;
}

- (void)setParametersProvider:(void (^)(RBWParametersReply))provider {
    RBW_SET_BLOCK(_parametersProvider, provider);
}

- (void)setClock:(NSTimeInterval (^)(void))clock {
    RBW_SET_BLOCK(_clock, clock);
}

- (void)setRandom:(double (^)(void))random {
    RBW_SET_BLOCK(_random, random);
}

- (id)copyWithZone:(NSZone *)zone {
    RBWConfiguration *copy = [[RBWConfiguration allocWithZone:zone] init];
    copy.deviceID = self.deviceID;
    copy.platform = self.platform;
    copy.parameters = self.parameters;
    copy.parametersProvider = self.parametersProvider;
    copy.headers = self.headers;
    copy.offersSession = self.offersSession;
    copy.storage = self.storage;
    copy.sendTimeout = self.sendTimeout;
    copy.repeatInterval = self.repeatInterval;
    copy.pendingMax = self.pendingMax;
    copy.bufferedBytesMax = self.bufferedBytesMax;
    copy.receivedBytesMax = self.receivedBytesMax;
    copy.backoffMin = self.backoffMin;
    copy.backoffMax = self.backoffMax;
    copy.stableAfter = self.stableAfter;
    copy.openTimeout = self.openTimeout;
    copy.pongTimeout = self.pongTimeout;
    copy.transportClass = self.transportClass;
    copy.clock = self.clock;
    copy.random = self.random;
    return copy;
}

static Class defaultTransportClass(void) {
#if RBW_HAS_URL_SESSION
    if (@available(macOS 10.15, iOS 13.0, watchOS 6.0, tvOS 13.0, *)) return [RBWURLSessionTransport class];
#endif
    return [RBWStreamTransport class];
}

@end
