// Packets of Rainbow (PROTOCOL.md), bytes to fields and back. Nothing that comes in makes it raise.

#import <Rainbow/RBWMessage.h>

NS_ASSUME_NONNULL_BEGIN

/// What was agreed on at the handshake.
typedef NS_ENUM(NSInteger, RBWProtocol) {
    /// As in 2014: no greeting, no PING and PONG, and bit 0 means nothing.
    RBWProtocolPlain,
    /// `rainbow.2`.
    RBWProtocol2,
};

typedef NS_ENUM(uint8_t, RBWCommand) {
    RBWCommandSend = 1,
    RBWCommandAck = 2,
    RBWCommandRec = 3,
    RBWCommandRel = 4,
    RBWCommandCom = 5,
    RBWCommandPing = 6,
    RBWCommandPong = 7,
};

enum {
    RBWPacketIDMax = 65534,
    /// Rainbow's own: the greeting.
    RBWGreetingType = 65535,
    /// Before the body of a SEND of QoS 1 or 2.
    RBWSendHeaderMax = 5,
};

/// A value. It is filled before it is handed on, and not changed afterwards.
@interface RBWPacket : NSObject {
@private
    RBWCommand _command;
    BOOL _isDuplicate;
    RBWQoS _qos;
    uint16_t _type;
    uint16_t _identifier;
    BOOL _isRefusal;
    uint16_t _status;
    NSData *_body;
}

@property (nonatomic) RBWCommand command;
@property (nonatomic) BOOL isDuplicate;
/// Of a SEND.
@property (nonatomic) RBWQoS qos;
@property (nonatomic) uint16_t type;
/// 0 for a packet without one.
@property (nonatomic) uint16_t identifier;
/// Of an ACK or REC: the business server refused the message with `status`.
@property (nonatomic) BOOL isRefusal;
@property (nonatomic) uint16_t status;
@property (nonatomic, strong) NSData *body;

/// nil for what is no packet.
+ (nullable RBWPacket *)packetWithData:(NSData *)data protocol:(RBWProtocol)protocol;
+ (RBWPacket *)packetWithCommand:(RBWCommand)command identifier:(uint16_t)identifier body:(nullable NSData *)body;

- (NSData *)data;

@end

NS_ASSUME_NONNULL_END
