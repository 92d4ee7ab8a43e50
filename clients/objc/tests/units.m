// The parts that know no connection: framing, handshakes, packets, ids and the heartbeat, with the vectors that every client reads.

#import "RBWAddress.h"
#import "RBWFramer.h"
#import "RBWHandshake.h"
#import "RBWHeartbeat.h"
#import "RBWIDTable.h"
#import "RBWOwnership.h"
#import "RBWPacket.h"
#import "RBWSHA1.h"
#import "RBWSessionIDs.h"
#import "RBWSystem.h"
#import "check.h"

/// From 0 to below `limit`, by the operating system's chance.
static NSUInteger below(NSUInteger limit) {
    return (NSUInteger)(RBWRandomFraction() * (double)limit);
}

// Framing.

static RBWFramer *framer(NSUInteger max) {
    return RBW_AUTORELEASE([[RBWFramer alloc] initWithMessageBytesMax:max]);
}

/// A frame of the server's, unmasked.
static NSData *frame(uint8_t first, NSString *payload) {
    NSData *data = [payload dataUsingEncoding:NSUTF8StringEncoding];
    NSMutableData *all = [NSMutableData dataWithBytes:&first length:1];
    uint8_t length[3] = {(uint8_t)data.length, (uint8_t)(data.length >> 8), (uint8_t)data.length};
    if (data.length > 125) length[0] = 126;
    [all appendBytes:length length:data.length > 125 ? 3 : 1];
    [all appendData:data];
    return all;
}

/// Each event as text, in order: "message abc", "violation 1002".
static NSArray<NSString *> *eventsOf(RBWFramer *one) {
    NSMutableArray<NSString *> *events = [NSMutableArray array];
    RBWFrameEvent event;
    while ((event = [one nextEvent]) != RBWFrameNeedMore) {
        NSString *payload = RBW_AUTORELEASE([[NSString alloc] initWithData:one.payload encoding:NSISOLatin1StringEncoding]);
        if (event == RBWFrameMessage) [events addObject:[@"message " stringByAppendingString:payload]];
        if (event == RBWFramePing) [events addObject:[@"ping " stringByAppendingString:payload]];
        if (event == RBWFramePong) [events addObject:[@"pong " stringByAppendingString:payload]];
        NSString *end = [NSString stringWithFormat:@"%ld", (long)one.closeCode];
        if (event == RBWFrameClose) [events addObject:[NSString stringWithFormat:@"close %@ %@", end, one.closeReason]];
        if (event == RBWFrameViolation) [events addObject:[@"violation " stringByAppendingString:end]];
    }
    return events;
}

static NSArray<NSString *> *eventsOfBytes(NSData *data, NSUInteger max, NSUInteger step) {
    RBWFramer *one = framer(max);
    NSMutableArray<NSString *> *events = [NSMutableArray array];
    for (NSUInteger from = 0; from < data.length; from += step) {
        [one appendBytes:(const uint8_t *)data.bytes + from length:MIN(step, data.length - from)];
        [events addObjectsFromArray:eventsOf(one)];
    }
    return events;
}

static NSData *someFrames(void) {
    NSMutableData *all = [NSMutableData data];
    [all appendData:frame(0x82, @"one")];
    [all appendData:frame(0x02, @"tw")];
    [all appendData:frame(0x89, @"ask")];
    [all appendData:frame(0x00, @"")];
    [all appendData:frame(0x80, @"o")];
    [all appendData:frame(0x81, [@"" stringByPaddingToLength:300 withString:@"x" startingAtIndex:0])];
    [all appendData:frame(0x8a, @"")];
    [all appendData:frame(0x82, @"")];
    [all appendData:fromHex(@"88060fa0676f6e65")];
    return all;
}

static void fragments_are_joined_and_control_frames_come_between(void) {
    // The close code 4000 is no UTF-8, so it is put in as bytes.
    NSMutableData *all = [NSMutableData dataWithData:[someFrames() subdataWithRange:NSMakeRange(0, 3 + 2 + 4 + 5 + 2 + 3)]];
    [all appendData:fromHex(@"88060fa0676f6e65")];
    EQUAL(eventsOfBytes(all, 1000, 1000), (@[@"message one", @"ping ask", @"message two", @"close 4000 gone"]));
}

static void byte_by_byte_is_as_whole(void) {
    NSMutableData *all = [NSMutableData data];
    for (int times = 0; times < 3; times++) {
        NSData *frames = someFrames();
        // Without the close.
        [all appendData:[frames subdataWithRange:NSMakeRange(0, frames.length - 8)]];
    }
    NSArray *whole = eventsOfBytes(all, 1000, all.length);
    CHECK(whole.count > 15);
    for (NSUInteger step = 1; step < 20; step++) EQUAL(eventsOfBytes(all, 1000, step), whole);
}

static void what_is_not_allowed_is_a_violation(void) {
    NSDictionary<NSString *, NSString *> *cases = @{
        @"c200": @"1002",               // A reserved bit.
        @"828000000000": @"1002",       // A mask.
        @"8300": @"1002",               // Unknown opcodes.
        @"8b00": @"1002",
        @"0900": @"1002",               // A ping in fragments.
        @"897e007e": @"1002",           // A ping of 126 bytes.
        @"8000": @"1002",               // A continuation of nothing.
        @"02008200": @"1002",           // A message within a message.
        @"827e007d": @"1002",           // Lengths that would fit a shorter form.
        @"827f000000000000ffff": @"1002",
        @"827f8000000000000000": @"1002",
        @"8265": @"1009",               // 101 bytes.
        @"827f7fffffffffffffff": @"1009",
        @"0264": @"need more",
        @"880100": @"1002",             // Half a close code.
        @"88020000": @"1002",           // Codes that must not be sent.
        @"880203ed": @"1002",
        @"880203ee": @"1002",
        @"880207d0": @"1002",
        @"880403e8c0af": @"1007",       // Close reasons and text that are not UTF-8.
        @"8102c0af": @"1007",
        @"8103eda080": @"1007",
        @"8104f4908080": @"1007",
        @"8101c3": @"1007",
        @"81025fff": @"1007",
    };
    for (NSString *hex in cases) {
        at(hex);
        NSString *wanted = [cases objectForKey:hex];
        BOOL isFine = [wanted isEqualToString:@"need more"];
        EQUAL(eventsOfBytes(fromHex(hex), 100, 100).lastObject, isFine ? nil : [@"violation " stringByAppendingString:wanted]);
    }
}

static void the_limit_is_of_the_sum_of_fragments(void) {
    NSMutableData *all = [NSMutableData dataWithData:frame(0x02, @"123456")];
    [all appendData:frame(0x00, @"1234")];
    [all appendData:frame(0x80, @"1")];
    EQUAL(eventsOfBytes(all, 10, 100), (@[@"violation 1009"]));
    EQUAL(eventsOfBytes(all, 11, 100), (@[@"message 12345612341"]));
}

static void after_the_end_nothing_is_taken(void) {
    RBWFramer *one = framer(100);
    [one appendBytes:"\x88\x00" length:2];
    EQUAL(eventsOf(one), (@[@"close 1005 "]));
    [one appendBytes:"\x82\x01" "a" length:3];
    EQUAL(eventsOf(one), (@[]));
}

/// Nothing that comes makes it raise or read beyond: run it with the address sanitizer.
static void noise_is_survived(void) {
    for (int round = 0; round < 20000; round++) {
        @autoreleasepool {
            NSMutableData *data = [NSMutableData dataWithLength:1 + below(120)];
            if (round % 2 == 0) RBWRandomBytes(data.mutableBytes, data.length);
            else {
                [data setData:someFrames()];
                for (int change = 0; change < 3; change++) ((uint8_t *)data.mutableBytes)[below(data.length)] ^= (uint8_t)(1 << below(8));
            }
            NSArray *whole = eventsOfBytes(data, 200, data.length);
            EQUAL(eventsOfBytes(data, 200, 1 + below(9)), whole);
        }
    }
}

static void what_goes_out_is_masked_and_reads_back(void) {
    for (NSNumber *length in @[@0, @1, @125, @126, @65535, @65536, @100000]) {
        NSMutableData *payload = [NSMutableData dataWithLength:length.unsignedIntegerValue];
        RBWRandomBytes(payload.mutableBytes, payload.length);
        NSMutableData *sent = [NSMutableData dataWithData:[RBWFramer frameWithOpcode:RBWOpcodeBinary payload:payload]];
        uint8_t *bytes = sent.mutableBytes;
        CHECK(bytes[1] & 0x80);
        // Unmasked, it is a server's frame.
        NSUInteger header = payload.length < 126 ? 2 : payload.length < 65536 ? 4 : 10;
        for (NSUInteger index = 0; index < payload.length; index++) bytes[header + 4 + index] ^= bytes[header + index % 4];
        bytes[1] &= 0x7f;
        [sent replaceBytesInRange:NSMakeRange(header, 4) withBytes:NULL length:0];
        RBWFramer *one = framer(1 << 20);
        [one appendBytes:sent.bytes length:sent.length];
        CHECK([one nextEvent] == RBWFrameMessage);
        EQUAL(one.payload, payload);
    }
    NSData *one = [RBWFramer frameWithOpcode:RBWOpcodePing payload:[NSData data]];
    NSData *other = [RBWFramer frameWithOpcode:RBWOpcodePing payload:[NSData data]];
    CHECK(![one isEqual:other]);
}

static void a_close_reason_is_cut_between_characters(void) {
    NSString *reason = [@"" stringByPaddingToLength:90 withString:@"ü" startingAtIndex:0];
    NSData *sent = [RBWFramer closeFrameWithCode:4000 reason:reason];
    CHECK(sent.length == 2 + 4 + 2 + 122);
    CHECK([RBWFramer closeFrameWithCode:1006 reason:@"x"].length == 2 + 4);
}

// Handshakes.

static void sha1_is_as_its_standard_says(void) {
    NSDictionary<NSString *, NSString *> *cases = @{
        @"": @"da39a3ee5e6b4b0d3255bfef95601890afd80709",
        @"abc": @"a9993e364706816aba3e25717850c26c9cd0d89d",
        @"abcdbcdecdefdefgefghfghighijhijkijkljklmklmnlmnomnopnopq": @"84983e441c3bd26ebaae4aa1f95129e5e54670f1",
    };
    for (NSString *text in cases) EQUAL(toHex(RBWSHA1([text dataUsingEncoding:NSUTF8StringEncoding])), [cases objectForKey:text]);
    NSString *long_ = [@"" stringByPaddingToLength:1000000 withString:@"a" startingAtIndex:0];
    EQUAL(toHex(RBWSHA1([long_ dataUsingEncoding:NSUTF8StringEncoding])), @"34aa973cd4c4daa4f61eeb2bdbad27316534016f");
}

static void accept_keys_are_as_the_vectors_say(void) {
    for (NSDictionary *vector in [vectors(@"handshakes.json") objectForKey:@"accept"]) {
        EQUAL([RBWHandshake acceptForKey:[vector objectForKey:@"key"]], [vector objectForKey:@"accept"]);
    }
}

static RBWHandshake *handshake(NSString *url, NSArray<NSString *> *subprotocols) {
    NSMutableURLRequest *request = [NSMutableURLRequest requestWithURL:[NSURL URLWithString:url]];
    [request setValue:@"Bearer x\r\nEvil: yes" forHTTPHeaderField:@"Authorization"];
    return RBW_AUTORELEASE([[RBWHandshake alloc] initWithRequest:request subprotocols:subprotocols]);
}

static NSString *requestOf(RBWHandshake *one) {
    return RBW_AUTORELEASE([[NSString alloc] initWithData:one.requestData encoding:NSUTF8StringEncoding]);
}

static NSString *headerOf(RBWHandshake *one, NSString *name) {
    for (NSString *line in [requestOf(one) componentsSeparatedByString:@"\r\n"]) {
        if ([line hasPrefix:[name stringByAppendingString:@": "]]) return [line substringFromIndex:name.length + 2];
    }
    return nil;
}

static void the_request_is_a_websocket_upgrade(void) {
    RBWHandshake *one = handshake(@"ws://example.com:8080/connect/?a=%20b&X-DEVICEID=d1#x", @[@"rainbow.2"]);
    CHECK([requestOf(one) hasPrefix:@"GET /connect/?a=%20b&X-DEVICEID=d1 HTTP/1.1\r\n"]);
    CHECK([requestOf(one) hasSuffix:@"\r\n\r\n"]);
    EQUAL(headerOf(one, @"Host"), @"example.com:8080");
    EQUAL(headerOf(one, @"Upgrade"), @"websocket");
    EQUAL(headerOf(one, @"Connection"), @"Upgrade");
    EQUAL(headerOf(one, @"Sec-WebSocket-Version"), @"13");
    EQUAL(headerOf(one, @"Sec-WebSocket-Protocol"), @"rainbow.2");
    CHECK(headerOf(one, @"Sec-WebSocket-Key").length == 24);
    CHECK(headerOf(one, @"Evil") == nil);
    RBWHandshake *other = handshake(@"ws://[::1]/connect/", @[]);
    EQUAL(headerOf(other, @"Host"), @"[::1]");
    EQUAL(headerOf(other, @"Sec-WebSocket-Protocol"), nil);
    CHECK(![headerOf(one, @"Sec-WebSocket-Key") isEqual:headerOf(other, @"Sec-WebSocket-Key")]);
}

static NSString *outcomeOf(RBWHandshake *one, RBWHandshakeResult result) {
    if (result == RBWHandshakeOpen) return one.subprotocol ?: @"plain";
    if (result == RBWHandshakeStatus) return one.status == 401 || one.status == 403 ? @"refused" : @"failed";
    return result == RBWHandshakeFailed ? @"failed" : @"need more";
}

static void answers_are_judged_as_the_vectors_say(void) {
    for (NSDictionary *vector in [vectors(@"handshakes.json") objectForKey:@"answers"]) {
        at([vector objectForKey:@"name"]);
        for (NSNumber *step in @[@1, @100000]) {
            RBWHandshake *one = handshake(@"ws://example.com/connect/", [vector objectForKey:@"offered"]);
            NSString *accept = [RBWHandshake acceptForKey:headerOf(one, @"Sec-WebSocket-Key")];
            NSString *lines = [[vector objectForKey:@"answer"] componentsJoinedByString:@"\r\n"];
            NSString *text = [lines stringByReplacingOccurrencesOfString:@"{accept}" withString:accept];
            if ([text rangeOfString:@"\r\n\r\n"].length == 0) text = [text stringByAppendingString:@"\r\n\r\nrest"];
            NSData *data = [text dataUsingEncoding:NSUTF8StringEncoding];
            RBWHandshakeResult result = RBWHandshakeNeedMore;
            for (NSUInteger from = 0; from < data.length && result == RBWHandshakeNeedMore; from += step.unsignedIntegerValue) {
                NSUInteger length = MIN(step.unsignedIntegerValue, data.length - from);
                result = [one appendBytes:(const uint8_t *)data.bytes + from length:length];
            }
            EQUAL(outcomeOf(one, result), [vector objectForKey:@"outcome"]);
            if (result == RBWHandshakeOpen) CHECK(one.rest.length == (step.integerValue == 1 ? 0 : 4));
        }
    }
}

static void noise_is_no_answer(void) {
    RBWHandshake *one = handshake(@"ws://example.com/", @[]);
    NSData *endless = [[@"" stringByPaddingToLength:20000 withString:@"HTTP/1.1 " startingAtIndex:0] dataUsingEncoding:NSUTF8StringEncoding];
    CHECK([one appendBytes:endless.bytes length:endless.length] == RBWHandshakeFailed);
    for (NSString *text in @[@"\r\n\r\n", @"HTTP/1.1\r\n\r\n", @"SSH-2.0-x 101 y\r\n\r\n", @"HTTP/1.1 1 x\r\n\r\n"]) {
        at(text);
        NSData *data = [text dataUsingEncoding:NSUTF8StringEncoding];
        CHECK([handshake(@"ws://example.com/", @[]) appendBytes:data.bytes length:data.length] == RBWHandshakeFailed);
    }
    for (int round = 0; round < 2000; round++) {
        @autoreleasepool {
            NSMutableData *data = [NSMutableData dataWithLength:200];
            RBWRandomBytes(data.mutableBytes, data.length);
            [data appendData:[@"\r\n\r\n" dataUsingEncoding:NSUTF8StringEncoding]];
            [handshake(@"ws://example.com/", @[]) appendBytes:data.bytes length:data.length];
        }
    }
}

// Packets.

static void valid_packets_are_as_the_vectors_say(void) {
    for (NSDictionary *vector in [vectors(@"packets.json") objectForKey:@"valid"]) {
        at([vector objectForKey:@"hex"]);
        for (NSNumber *protocol in @[@(RBWProtocolPlain), @(RBWProtocol2)]) {
            RBWPacket *packet = [RBWPacket packetWithData:fromHex([vector objectForKey:@"hex"]) protocol:protocol.integerValue];
            EQUAL(@(packet.command), [vector objectForKey:@"command"]);
            EQUAL(@(packet.isDuplicate), [vector objectForKey:@"dup"]);
            EQUAL(@(packet.qos), [vector objectForKey:@"qos"] ?: @0);
            EQUAL(@(packet.type), [vector objectForKey:@"type"] ?: @0);
            EQUAL(@(packet.identifier), [vector objectForKey:@"id"] ?: @0);
            EQUAL(toHex(packet.body), [vector objectForKey:@"body"]);
            EQUAL(toHex([packet data]), [vector objectForKey:@"hex"]);
        }
    }
}

static void invalid_packets_are_none(void) {
    for (NSString *hex in [vectors(@"packets.json") objectForKey:@"invalid"]) {
        at(hex);
        CHECK([RBWPacket packetWithData:fromHex(hex) protocol:RBWProtocolPlain] == nil);
        CHECK([RBWPacket packetWithData:fromHex(hex) protocol:RBWProtocol2] == nil);
    }
    CHECK([RBWPacket packetWithData:[NSData data] protocol:RBWProtocol2] == nil);
}

static void packets_of_rainbow_2_are_as_the_vectors_say(void) {
    NSDictionary *told = [vectors(@"packets.json") objectForKey:@"rainbow_2"];
    EQUAL(toHex([[RBWPacket packetWithCommand:RBWCommandPing identifier:0 body:nil] data]), [told objectForKey:@"ping"]);
    EQUAL(toHex([[RBWPacket packetWithCommand:RBWCommandPong identifier:0 body:nil] data]), [told objectForKey:@"pong"]);
    CHECK([RBWPacket packetWithData:fromHex([told objectForKey:@"pong"]) protocol:RBWProtocol2].command == RBWCommandPong);
    CHECK([RBWPacket packetWithData:fromHex([told objectForKey:@"pong"]) protocol:RBWProtocolPlain] == nil);
    NSDictionary *refusal = [told objectForKey:@"refusal_ack"];
    RBWPacket *packet = [RBWPacket packetWithData:fromHex([refusal objectForKey:@"hex"]) protocol:RBWProtocol2];
    CHECK(packet.isRefusal);
    EQUAL(@(packet.identifier), [refusal objectForKey:@"id"]);
    EQUAL(@(packet.status), [refusal objectForKey:@"status"]);
    EQUAL(toHex(packet.body), [refusal objectForKey:@"body"]);
    EQUAL(toHex([packet data]), [refusal objectForKey:@"hex"]);
    CHECK(![RBWPacket packetWithData:fromHex([refusal objectForKey:@"hex"]) protocol:RBWProtocolPlain].isRefusal);
}

static void noise_as_packets_is_survived(void) {
    for (int round = 0; round < 20000; round++) {
        @autoreleasepool {
            NSMutableData *data = [NSMutableData dataWithLength:below(9)];
            RBWRandomBytes(data.mutableBytes, data.length);
            RBWPacket *packet = [RBWPacket packetWithData:data protocol:RBWProtocol2];
            if (packet != nil) CHECK([packet data].length == data.length);
        }
    }
}

/// JSON with a few bytes changed, cut off, or brackets only.
static void noise_as_json_is_survived(void) {
    NSData *whole = [@"{\"a\":[1,2.5e3,true,null,\"\\u00fc\\n\"],\"resumed\":false}" dataUsingEncoding:NSUTF8StringEncoding];
    for (int round = 0; round < 20000; round++) {
        @autoreleasepool {
            NSMutableData *data = [NSMutableData dataWithData:whole];
            if (round % 3 == 0) data.length = below(data.length);
            for (int change = 0; change < round % 4 && data.length > 0; change++) {
                ((uint8_t *)data.mutableBytes)[below(data.length)] = (uint8_t)below(256);
            }
            RBWBody *body = RBW_AUTORELEASE([[RBWBody alloc] initWithData:data]);
            (void)body.text, (void)body.JSONObject;
            (void)RBW_AUTORELEASE([[RBWGreeting alloc] initWithData:data]);
        }
    }
    NSString *deep = [@"" stringByPaddingToLength:10000000 withString:@"[" startingAtIndex:0];
    EQUAL(RBW_AUTORELEASE([[RBWBody alloc] initWithData:[deep dataUsingEncoding:NSUTF8StringEncoding]]).JSONObject, nil);
}

// Greetings and messages.

static void greetings_take_what_they_know(void) {
    RBWGreeting *(^of)(NSString *) = ^(NSString *text) {
        return RBW_AUTORELEASE([[RBWGreeting alloc] initWithData:[text dataUsingEncoding:NSUTF8StringEncoding]]);
    };
    RBWGreeting *full = of(@"{\"session\":\"s\",\"session_id\":\"i\",\"resumed\":true,\"waiting\":3,\"identity\":\"x\",\"heartbeat\":20,"
                           @"\"message_bytes_max\":4096,\"new\":[1]}");
    EQUAL(full.session, @"s");
    EQUAL(full.sessionID, @"i");
    CHECK(full.isResumed && full.waiting == 3 && full.heartbeat == 20 && full.messageBytesMax == 4096);
    RBWGreeting *bare = of(@"{\"resumed\":false}");
    CHECK(bare != nil && bare.session == nil && bare.heartbeat == 0 && bare.messageBytesMax == NSUIntegerMax);
    RBWGreeting *odd = of(@"{\"resumed\":true,\"session\":7,\"waiting\":-1,\"heartbeat\":\"x\",\"message_bytes_max\":1e300}");
    CHECK(odd != nil && odd.session == nil && !odd.isResumed && odd.waiting == 0 && odd.messageBytesMax == NSUIntegerMax);
    for (NSString *none in @[@"", @"{}", @"[]", @"7", @"{\"resumed\":\"yes\"}", @"{\"resumed\":", @"null"]) {
        at(none);
        CHECK(of(none) == nil);
    }
}

static void bodies_are_text_and_json(void) {
    RBWBody *(^of)(NSString *) = ^(NSString *hex) { return RBW_AUTORELEASE([[RBWBody alloc] initWithData:fromHex(hex)]); };
    EQUAL(of(@"c3bc").text, @"ü");
    EQUAL(of(@"ff").text, nil);
    EQUAL(of(@"").text, @"");
    EQUAL(of(@"").JSONObject, nil);
    EQUAL(of(@"7b").JSONObject, nil);
    EQUAL(of(@"7b2261223a317d").JSONObject, (@{@"a": @1}));
    EQUAL(of(@"37").JSONObject, @7);
}

// Addresses.

static void urls_are_made_for_attempts(void) {
    NSDictionary<NSString *, NSString *> *cases = @{
        @"ws://a": @"ws://a/connect/",
        @"ws://a/": @"ws://a/connect/",
        @"https://a:1/?x=1": @"wss://a:1/connect/?x=1",
        @"http://a/other/#f": @"ws://a/other/",
        @"WSS://a/connect/": @"wss://a/connect/",
    };
    for (NSString *url in cases) EQUAL(RBWConnectURL([NSURL URLWithString:url]).absoluteString, [cases objectForKey:url]);
    for (NSString *url in @[@"ftp://a", @"a", @"ws:", @"/connect/"]) EQUAL(RBWConnectURL([NSURL URLWithString:url]), nil);
    NSURL *url = RBWURLWithParameters([NSURL URLWithString:@"ws://a/connect/?x=1"], @{@"token": @"a&b=c ü+", @"empty": @""});
    EQUAL(url.absoluteString, @"ws://a/connect/?x=1&empty=&token=a%26b%3Dc%20%C3%BC%2B");
    EQUAL(RBWURLWithParameters([NSURL URLWithString:@"ws://a/"], @{@"b": @"1"}).absoluteString, @"ws://a/?b=1");
}

// Ids.

@interface Pending : NSObject <RBWPendingIDs, RBWStorage, RBWStorageFaults> {
@public
    NSMutableSet<NSNumber *> *_ids;
    NSString *_text;
    BOOL _isBroken;
    NSUInteger _saves;
    NSError *_fault;
}
@end

@implementation Pending

- (instancetype)init {
    if ((self = [super init])) _ids = [[NSMutableSet alloc] init];
    return self;
}

- (void)dealloc {
    RBW_RELEASE(_ids);
    RBW_RELEASE(_text);
    RBW_RELEASE(_fault);
    RBW_SUPER_DEALLOC;
}

- (BOOL)isPending:(uint16_t)identifier {
    return [_ids containsObject:@(identifier)];
}

- (NSString *)loadText {
    return _text;
}

- (BOOL)saveText:(NSString *)text error:(NSError **)error {
    if (_isBroken) {
        if (error != NULL) *error = [NSError errorWithDomain:NSPOSIXErrorDomain code:28 userInfo:nil];
        return NO;
    }
    _saves++;
    RBW_RELEASE(_text);
    _text = [text copy];
    return YES;
}

- (void)removeText {
    RBW_RELEASE(_text);
    _text = nil;
}

- (void)storageFailed:(NSError *)error {
    RBW_RELEASE(_fault);
    _fault = [error copy];
}

@end

static Pending *pendingIDs(void) {
    return RBW_AUTORELEASE([[Pending alloc] init]);
}

static RBWSessionIDs *sessionIDs(NSString *session, id<RBWStorage> storage, uint16_t lastID) {
    return RBW_AUTORELEASE([[RBWSessionIDs alloc] initWithSession:session storage:storage lastID:lastID]);
}

static void ids_go_upwards_and_skip_those_in_use(void) {
    Pending *pending = pendingIDs();
    RBWSessionIDs *ids = sessionIDs(nil, nil, 65530);
    [pending->_ids addObject:@65532];
    [ids hold:65534 beside:pending];
    EQUAL(@([ids takeIDBeside:pending]), @65531);
    EQUAL(@([ids takeIDBeside:pending]), @65533);
    EQUAL(@([ids takeIDBeside:pending]), @1);
    EQUAL(@([ids takeIDBeside:pending]), @2);
}

static void a_restart_never_meets_its_last_ids(void) {
    Pending *storage = pendingIDs();
    RBWSessionIDs *ids = sessionIDs(@"s/1", storage, 65000);
    [ids begin];
    for (int sends = 0; sends < 3000; sends++) {
        uint16_t used = [ids takeIDBeside:storage];
        if (sends % 97 == 0) {
            RBWSessionIDs *next = [RBWSessionIDs restoredForSession:@"s/1" storage:storage fraction:0];
            NSInteger ahead = (next.lastID - used + RBWPacketIDMax) % RBWPacketIDMax;
            CHECK(ahead >= 0 && ahead <= 256);
        }
    }
    // In blocks.
    CHECK(storage->_saves < 20);
}

static void a_session_is_restored_by_its_name(void) {
    Pending *storage = pendingIDs();
    RBWSessionIDs *ids = sessionIDs(@"s/1", storage, 0);
    [ids begin];
    [ids hold:3 beside:storage];
    [ids hold:1 beside:storage];
    [ids beginReceived:7 qos:RBWQoSExactlyOnce];
    [ids beginReceived:8 qos:RBWQoSExactlyOnce];
    [ids beginReceived:9 qos:RBWQoSAtLeastOnce];
    CHECK([ids hasReceived:7 qos:RBWQoSExactlyOnce] && [ids replyTo:7 qos:RBWQoSExactlyOnce] == nil);
    [ids finishReceived:8 qos:RBWQoSExactlyOnce reply:fromHex(@"aa")];
    [ids finishReceived:9 qos:RBWQoSAtLeastOnce reply:fromHex(@"bb")];

    RBWSessionIDs *same = [RBWSessionIDs restoredForSession:@"s/1" storage:storage fraction:0.5];
    EQUAL([same heldIDs], (@[@3, @1]));
    EQUAL([same receivedIDs], (@[@8]));
    EQUAL([same replyTo:9 qos:RBWQoSAtLeastOnce], [NSData data]);
    CHECK(![same hasReceived:7 qos:RBWQoSExactlyOnce]);
    RBWSessionIDs *other = [RBWSessionIDs restoredForSession:@"s/2" storage:storage fraction:0.5];
    EQUAL([other heldIDs], (@[]));
    EQUAL(@(other.lastID), @32767);
    for (NSString *broken in @[@"", @"{", @"[]", @"{\"session\":\"s/1\"}", @"{\"session\":\"s/1\",\"last\":1.5,\"held\":[],\"answered\":[],\"received\":[]}",
                               @"{\"session\":\"s/1\",\"last\":1,\"held\":[0],\"answered\":[],\"received\":[]}",
                               @"{\"session\":\"s/1\",\"last\":1,\"held\":{},\"answered\":[],\"received\":[]}"]) {
        at(broken);
        [storage saveText:broken error:NULL];
        EQUAL(@([RBWSessionIDs restoredForSession:@"s/1" storage:storage fraction:0.25].lastID), @16383);
    }
}

static void a_storage_that_fails_is_given_up_and_said(void) {
    Pending *storage = pendingIDs();
    RBWSessionIDs *ids = sessionIDs(@"s/1", storage, 0);
    ids.faults = storage;
    [ids begin];
    CHECK(storage->_text != nil);
    storage->_isBroken = YES;
    [ids hold:1 beside:storage];
    CHECK(storage->_fault != nil && storage->_text == nil);
    storage->_isBroken = NO;
    [ids hold:2 beside:storage];
    CHECK(storage->_text == nil);
    EQUAL([ids heldIDs], (@[@1, @2]));
    ids.faults = nil;
}

static void what_is_kept_has_bounds(void) {
    Pending *pending = pendingIDs();
    RBWSessionIDs *ids = sessionIDs(nil, nil, 0);
    [pending->_ids addObject:@1];
    for (uint16_t one = 1; one <= 2000; one++) [ids hold:one beside:pending];
    EQUAL(@([ids heldIDs].count), @1024);
    EQUAL([ids heldIDs].firstObject, @1);
    for (uint16_t one = 1; one <= 2000; one++) {
        [ids beginReceived:one qos:RBWQoSAtLeastOnce];
        if (one != 5) [ids finishReceived:one qos:RBWQoSAtLeastOnce reply:[NSData data]];
    }
    CHECK([ids hasReceived:5 qos:RBWQoSAtLeastOnce] && ![ids hasReceived:6 qos:RBWQoSAtLeastOnce]);
    CHECK(![ids isFull]);
    for (uint16_t one = 1; one <= 16384; one++) [ids beginReceived:one qos:RBWQoSExactlyOnce];
    CHECK([ids isFull]);
}

static void a_file_keeps_its_text(void) {
    NSString *path = [NSTemporaryDirectory() stringByAppendingPathComponent:RBWRandomHex(8)];
    RBWFileStorage *file = RBW_AUTORELEASE([[RBWFileStorage alloc] initWithPath:path]);
    EQUAL([file loadText], nil);
    CHECK([file saveText:@"first, and longer" error:NULL]);
    CHECK([file saveText:@"zweite ü" error:NULL]);
    EQUAL([file loadText], @"zweite ü");
    [file removeText];
    EQUAL([file loadText], nil);
    NSError *error = nil;
    RBWFileStorage *nowhere = RBW_AUTORELEASE([[RBWFileStorage alloc] initWithPath:@"/nonexistent/file"]);
    CHECK(![nowhere saveText:@"x" error:&error]);
    EQUAL(error.domain, NSPOSIXErrorDomain);
}

// The heartbeat.

static void silence_is_asked_and_then_dead(void) {
    RBWHeartbeat *heart = RBW_AUTORELEASE([[RBWHeartbeat alloc] initWithPongTimeout:10]);
    CHECK([heart judgeAt:1e6] == RBWPulseFine);
    heart.heartbeat = 20;
    [heart heardAt:100];
    CHECK([heart judgeAt:119] == RBWPulseFine);
    CHECK([heart judgeAt:120] == RBWPulseAsk);
    CHECK([heart judgeAt:126] == RBWPulseFine);
    CHECK([heart judgeAt:127] == RBWPulseDead);
    [heart heardAt:128];
    CHECK([heart judgeAt:147] == RBWPulseFine);
    // Ten minutes of sleep: asked first.
    CHECK([heart judgeAt:747] == RBWPulseAsk);
    // A clock that was set back counts from there.
    CHECK([heart judgeAt:100] == RBWPulseFine);
    CHECK([heart judgeAt:119] == RBWPulseFine);
    CHECK([heart judgeAt:120] == RBWPulseAsk);
    CHECK([heart judgeAt:127] == RBWPulseDead);
    CHECK(heart.judgeInterval == 1.25);
}

int main(void) {
    @autoreleasepool {
        const Test tests[] = {
            TEST(fragments_are_joined_and_control_frames_come_between),
            TEST(byte_by_byte_is_as_whole),
            TEST(what_is_not_allowed_is_a_violation),
            TEST(the_limit_is_of_the_sum_of_fragments),
            TEST(after_the_end_nothing_is_taken),
            TEST(noise_is_survived),
            TEST(what_goes_out_is_masked_and_reads_back),
            TEST(a_close_reason_is_cut_between_characters),
            TEST(sha1_is_as_its_standard_says),
            TEST(accept_keys_are_as_the_vectors_say),
            TEST(the_request_is_a_websocket_upgrade),
            TEST(answers_are_judged_as_the_vectors_say),
            TEST(noise_is_no_answer),
            TEST(valid_packets_are_as_the_vectors_say),
            TEST(invalid_packets_are_none),
            TEST(packets_of_rainbow_2_are_as_the_vectors_say),
            TEST(noise_as_packets_is_survived),
            TEST(noise_as_json_is_survived),
            TEST(greetings_take_what_they_know),
            TEST(bodies_are_text_and_json),
            TEST(urls_are_made_for_attempts),
            TEST(ids_go_upwards_and_skip_those_in_use),
            TEST(a_restart_never_meets_its_last_ids),
            TEST(a_session_is_restored_by_its_name),
            TEST(a_storage_that_fails_is_given_up_and_said),
            TEST(what_is_kept_has_bounds),
            TEST(a_file_keeps_its_text),
            TEST(silence_is_asked_and_then_dead),
        };
        return runTests(tests, sizeof tests / sizeof *tests);
    }
}
