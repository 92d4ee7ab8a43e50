#import "RBWPacket.h"
#import "RBWOwnership.h"

enum { DuplicateBit = 0x08, RefusedBit = 0x01, QoSShift = 1, QoSBits = 3, CommandShift = 4, StatusLength = 2 };

static uint16_t word(const uint8_t *bytes);
static void appendWord(NSMutableData *data, uint16_t word);

@implementation RBWPacket

@synthesize command = _command, isDuplicate = _isDuplicate, qos = _qos, type = _type, identifier = _identifier,
            isRefusal = _isRefusal, status = _status, body = _body;

- (instancetype)init {
    if ((self = [super init])) _body = [[NSData alloc] init];
    return self;
}

- (void)dealloc {
    RBW_RELEASE(_body);
    RBW_SUPER_DEALLOC;
}

+ (RBWPacket *)packetWithCommand:(RBWCommand)command identifier:(uint16_t)identifier body:(NSData *)body {
    RBWPacket *packet = RBW_AUTORELEASE([[RBWPacket alloc] init]);
    packet.command = command;
    packet.identifier = identifier;
    if (body != nil) packet.body = body;
    return packet;
}

+ (RBWPacket *)packetWithData:(NSData *)data protocol:(RBWProtocol)protocol {
    const uint8_t *bytes = data.bytes;
    NSUInteger length = data.length;
    if (length == 0) return nil;
    RBWPacket *packet = [RBWPacket packetWithCommand:bytes[0] >> CommandShift identifier:0 body:nil];
    packet.isDuplicate = (bytes[0] & DuplicateBit) != 0;
    packet.qos = bytes[0] >> QoSShift & QoSBits;
    if (packet.command == RBWCommandPing || packet.command == RBWCommandPong) {
        return protocol == RBWProtocol2 && length == 1 ? packet : nil;
    }
    BOOL isSend = packet.command == RBWCommandSend;
    if (packet.command < RBWCommandSend || packet.command > RBWCommandCom || packet.qos == QoSBits) return nil;
    NSUInteger header = isSend && packet.qos > 0 ? 5 : 3;
    if (length < header) return nil;
    if (isSend) packet.type = word(bytes + 1);
    if (!isSend || packet.qos > 0) {
        packet.identifier = word(bytes + header - 2);
        if (packet.identifier == 0 || packet.identifier > RBWPacketIDMax) return nil;
    }
    BOOL hasBody = packet.command != RBWCommandRel && packet.command != RBWCommandCom;
    if (!hasBody && length > header) return nil;
    BOOL isAnswer = packet.command == RBWCommandAck || packet.command == RBWCommandRec;
    if (protocol == RBWProtocol2 && isAnswer && bytes[0] & RefusedBit) {
        if (length < header + StatusLength) return nil;
        packet.isRefusal = YES;
        packet.status = word(bytes + header);
        header += StatusLength;
    }
    packet.body = [data subdataWithRange:NSMakeRange(header, length - header)];
    return packet;
}

- (NSData *)data {
    NSMutableData *data = [NSMutableData dataWithCapacity:RBWSendHeaderMax + StatusLength + self.body.length];
    uint8_t first = (uint8_t)(self.command << CommandShift | (self.isDuplicate ? DuplicateBit : 0) | (self.isRefusal ? RefusedBit : 0));
    if (self.command == RBWCommandSend) first |= (uint8_t)(self.qos << QoSShift);
    [data appendBytes:&first length:1];
    if (self.command == RBWCommandSend) appendWord(data, self.type);
    if (self.identifier != 0) appendWord(data, self.identifier);
    if (self.isRefusal) appendWord(data, self.status);
    [data appendData:self.body];
    return data;
}

static uint16_t word(const uint8_t *bytes) {
    return (uint16_t)(bytes[0] << 8 | bytes[1]);
}

static void appendWord(NSMutableData *data, uint16_t word) {
    uint8_t bytes[] = {(uint8_t)(word >> 8), (uint8_t)word};
    [data appendBytes:bytes length:sizeof bytes];
}

@end
