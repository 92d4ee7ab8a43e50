#import "RBWFramer.h"
#import "RBWOwnership.h"
#import "RBWSystem.h"

enum {
    FinBit = 0x80,
    ReservedBits = 0x70,
    OpcodeBits = 0x0f,
    ControlBit = 0x08,
    MaskBit = 0x80,
    LengthBits = 0x7f,
    Length16 = 126,
    Length64 = 127,
    ControlPayloadMax = 125,
    MaskLength = 4,
    CloseCodeLength = 2,
    CloseProtocolError = 1002,
    CloseNoStatus = 1005,
    CloseInvalidData = 1007,
    CloseTooBig = 1009,
    /// Bytes that were read stay in front until they are so many: then the rest is moved, once for many frames.
    CompactAfter = 64 * 1024,
};

/// What the first bytes of a frame say.
typedef struct {
    RBWOpcode opcode;
    BOOL isFinal;
    NSUInteger headerLength;
    uint64_t payloadLength;
} Frame;

static NSString *textOf(NSData *data);
static BOOL maySend(NSInteger code);

@interface RBWFramer ()
@property (nonatomic, strong) NSData *payload;
@property (nonatomic) NSInteger closeCode;
@property (nonatomic, copy) NSString *closeReason;
@end

@implementation RBWFramer

@synthesize payload = _payload, closeCode = _closeCode, closeReason = _closeReason;

- (instancetype)initWithMessageBytesMax:(NSUInteger)messageBytesMax {
    if ((self = [super init])) {
        _messageBytesMax = messageBytesMax;
        _buffer = [[NSMutableData alloc] init];
        _payload = [[NSData alloc] init];
        _closeReason = @"";
    }
    return self;
}

- (void)dealloc {
    RBW_RELEASE(_buffer);
    RBW_RELEASE(_message);
    RBW_RELEASE(_payload);
    RBW_RELEASE(_closeReason);
    RBW_SUPER_DEALLOC;
}

- (void)appendBytes:(const void *)bytes length:(NSUInteger)length {
    if (!_hasEnded) [_buffer appendBytes:bytes length:length];
}

- (RBWFrameEvent)nextEvent {
    // A fragment is no event: the loop takes the next frame. It ends with the buffer, since each frame has two bytes at least.
    while (!_hasEnded) {
        Frame frame;
        RBWFrameEvent event = [self readHeader:&frame];
        if (event != RBWFrameMessage) return event;
        if (_buffer.length - _position - frame.headerLength < frame.payloadLength) return RBWFrameNeedMore;
        NSRange range = NSMakeRange(_position + frame.headerLength, (NSUInteger)frame.payloadLength);
        NSData *payload = [_buffer subdataWithRange:range];
        [self advanceTo:NSMaxRange(range)];
        event = frame.opcode & ControlBit ? [self takeControl:frame.opcode payload:payload] : [self takeFragment:frame payload:payload];
        if (event != RBWFrameNeedMore) return event;
    }
    return RBWFrameNeedMore;
}

// In.

/// RBWFrameMessage when the header is whole and allowed. Everything wrong is found before a byte of the payload is waited for.
- (RBWFrameEvent)readHeader:(Frame *)frame {
    NSUInteger available = _buffer.length - _position;
    if (available < 2) return RBWFrameNeedMore;
    const uint8_t *bytes = (const uint8_t *)_buffer.bytes + _position;
    frame->opcode = bytes[0] & OpcodeBits;
    frame->isFinal = (bytes[0] & FinBit) != 0;
    uint8_t shortLength = bytes[1] & LengthBits;

    // Section 5.2: no extension was agreed on. Section 5.1: a server does not mask.
    if (bytes[0] & ReservedBits) return [self violate:CloseProtocolError because:@"reserved bits"];
    if (bytes[1] & MaskBit) return [self violate:CloseProtocolError because:@"masked by the server"];
    if (frame->opcode & ControlBit) {
        if (frame->opcode > RBWOpcodePong) return [self violate:CloseProtocolError because:@"unknown opcode"];
        // Section 5.5.
        if (!frame->isFinal) return [self violate:CloseProtocolError because:@"control frame in fragments"];
        if (shortLength > ControlPayloadMax) return [self violate:CloseProtocolError because:@"control frame too long"];
    } else {
        if (frame->opcode > RBWOpcodeBinary) return [self violate:CloseProtocolError because:@"unknown opcode"];
        // Section 5.4.
        BOOL continues = frame->opcode == RBWOpcodeContinuation;
        if (continues != (_message != nil)) return [self violate:CloseProtocolError because:@"fragments out of order"];
    }

    NSUInteger lengthLength = shortLength == Length16 ? 2 : shortLength == Length64 ? 8 : 0;
    frame->headerLength = 2 + lengthLength;
    if (available < frame->headerLength) return RBWFrameNeedMore;
    frame->payloadLength = lengthLength == 0 ? shortLength : 0;
    for (NSUInteger at = 0; at < lengthLength; at++) frame->payloadLength = frame->payloadLength << 8 | bytes[2 + at];
    // Section 5.2: the shortest form only, and the highest bit of the long one is zero.
    BOOL isTooLongForm = (shortLength == Length16 && frame->payloadLength < Length16) ||
                         (shortLength == Length64 && frame->payloadLength <= UINT16_MAX);
    if (isTooLongForm || frame->payloadLength >> 63) return [self violate:CloseProtocolError because:@"bad length"];
    if (!(frame->opcode & ControlBit) && frame->payloadLength > _messageBytesMax - _message.length) {
        return [self violate:CloseTooBig because:@"message too large"];
    }
    return RBWFrameMessage;
}

- (RBWFrameEvent)takeFragment:(Frame)frame payload:(NSData *)payload {
    if (frame.opcode != RBWOpcodeContinuation) _messageOpcode = frame.opcode;
    if (_message == nil && frame.isFinal) return [self finish:payload];
    if (_message == nil) _message = [[NSMutableData alloc] init];
    [_message appendData:payload];
    if (!frame.isFinal) return RBWFrameNeedMore;
    NSData *message = RBW_AUTORELEASE(_message);
    _message = nil;
    return [self finish:message];
}

- (RBWFrameEvent)finish:(NSData *)message {
    // Section 8.1.
    if (_messageOpcode == RBWOpcodeText && textOf(message) == nil) return [self violate:CloseInvalidData because:@"not UTF-8"];
    self.payload = message;
    return RBWFrameMessage;
}

- (RBWFrameEvent)takeControl:(RBWOpcode)opcode payload:(NSData *)payload {
    self.payload = payload;
    if (opcode == RBWOpcodePing) return RBWFramePing;
    if (opcode == RBWOpcodePong) return RBWFramePong;
    if (payload.length == 0) return [self end:RBWFrameClose code:CloseNoStatus reason:@""];
    if (payload.length < CloseCodeLength) return [self violate:CloseProtocolError because:@"bad close"];
    const uint8_t *bytes = payload.bytes;
    NSInteger code = bytes[0] << 8 | bytes[1];
    NSString *reason = textOf([payload subdataWithRange:NSMakeRange(CloseCodeLength, payload.length - CloseCodeLength)]);
    if (!maySend(code)) return [self violate:CloseProtocolError because:@"bad close code"];
    if (reason == nil) return [self violate:CloseInvalidData because:@"not UTF-8"];
    return [self end:RBWFrameClose code:code reason:reason];
}

- (RBWFrameEvent)violate:(NSInteger)code because:(NSString *)reason {
    return [self end:RBWFrameViolation code:code reason:reason];
}

- (RBWFrameEvent)end:(RBWFrameEvent)event code:(NSInteger)code reason:(NSString *)reason {
    _hasEnded = YES;
    self.closeCode = code;
    self.closeReason = reason;
    return event;
}

- (void)advanceTo:(NSUInteger)position {
    _position = position;
    if (_position < _buffer.length && _position < CompactAfter) return;
    [_buffer replaceBytesInRange:NSMakeRange(0, _position) withBytes:NULL length:0];
    _position = 0;
}

// Out.

+ (NSData *)frameWithOpcode:(RBWOpcode)opcode payload:(NSData *)payload {
    NSUInteger length = payload.length;
    uint8_t header[2 + 8] = {FinBit | opcode};
    NSUInteger lengthLength = length < Length16 ? 0 : length <= UINT16_MAX ? 2 : 8;
    header[1] = MaskBit | (lengthLength == 0 ? (uint8_t)length : lengthLength == 2 ? Length16 : Length64);
    for (NSUInteger at = 0; at < lengthLength; at++) header[2 + at] = (uint8_t)((uint64_t)length >> 8 * (lengthLength - 1 - at));
    uint8_t mask[MaskLength];
    RBWRandomBytes(mask, sizeof mask);

    NSMutableData *frame = [NSMutableData dataWithCapacity:2 + lengthLength + MaskLength + length];
    [frame appendBytes:header length:2 + lengthLength];
    [frame appendBytes:mask length:sizeof mask];
    [frame appendData:payload];
    uint8_t *bytes = (uint8_t *)frame.mutableBytes + 2 + lengthLength + MaskLength;
    for (NSUInteger at = 0; at < length; at++) bytes[at] ^= mask[at % MaskLength];
    return frame;
}

+ (NSData *)closeFrameWithCode:(NSInteger)code reason:(NSString *)reason {
    if (!maySend(code)) return [self frameWithOpcode:RBWOpcodeClose payload:[NSData data]];
    uint8_t bytes[CloseCodeLength] = {(uint8_t)(code >> 8), (uint8_t)code};
    NSMutableData *payload = [NSMutableData dataWithBytes:bytes length:sizeof bytes];
    // Cut between characters.
    while ([reason lengthOfBytesUsingEncoding:NSUTF8StringEncoding] > ControlPayloadMax - CloseCodeLength) {
        reason = [reason substringToIndex:[reason rangeOfComposedCharacterSequenceAtIndex:reason.length - 1].location];
    }
    NSData *text = [reason dataUsingEncoding:NSUTF8StringEncoding];
    if (text != nil) [payload appendData:text];
    return [self frameWithOpcode:RBWOpcodeClose payload:payload];
}

// Helpers.

/// nil for what is not UTF-8. Foundation's own check differs between systems, so the bytes are checked here first: RFC 3629
/// section 4 forbids long forms, surrogates and what is beyond U+10FFFF.
static NSString *textOf(NSData *data) {
    const uint8_t *bytes = data.bytes;
    NSUInteger length = data.length;
    for (NSUInteger at = 0; at < length;) {
        uint8_t first = bytes[at];
        NSUInteger following;
        uint8_t low = 0x80, high = 0xbf;
        if (first < 0x80) following = 0;
        else if (first >= 0xc2 && first <= 0xdf) following = 1;
        else if (first >= 0xe0 && first <= 0xef) following = 2;
        else if (first >= 0xf0 && first <= 0xf4) following = 3;
        else return nil;
        if (first == 0xe0) low = 0xa0;
        else if (first == 0xed) high = 0x9f;
        else if (first == 0xf0) low = 0x90;
        else if (first == 0xf4) high = 0x8f;
        if (length - at - 1 < following) return nil;
        for (NSUInteger next = at + 1; next <= at + following; next++) {
            if (bytes[next] < low || bytes[next] > high) return nil;
            low = 0x80;
            high = 0xbf;
        }
        at += 1 + following;
    }
    return RBW_AUTORELEASE([[NSString alloc] initWithData:data encoding:NSUTF8StringEncoding]);
}

/// Section 7.4: codes that stand in a close frame. 1005, 1006 and 1015 do not.
static BOOL maySend(NSInteger code) {
    return (code >= 1000 && code <= 1014 && code != 1004 && code != 1005 && code != 1006) || (code >= 3000 && code <= 4999);
}

@end
