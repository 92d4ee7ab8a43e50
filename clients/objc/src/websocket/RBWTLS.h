// A client's TLS session without IO, by GnuTLS: bytes of the line go in and out, bytes of the application come out and go in.
// GNUstep's own streams do not serve for it: up to 1.28 they check no certificate unless told, take the names that do not match
// for those that do, and read no other file of authorities than the default one. Apple's do, and have no use for this.

#import <Rainbow/RBWDefines.h>

NS_ASSUME_NONNULL_BEGIN

typedef NS_ENUM(NSInteger, RBWTLSState) {
    RBWTLSHandshaking,
    RBWTLSOpen,
    /// `failure` says why. Nothing follows.
    RBWTLSFailed,
    /// The other side has said that nothing follows.
    RBWTLSEnded,
};

@interface RBWTLS : NSObject {
@private
    RBWTLSState _state;
    NSString *_failure;
    NSMutableData *_incoming;
    NSUInteger _position;
    NSMutableData *_outgoing;
    /// GnuTLS does not copy it.
    char *_host;
    struct gnutls_session_int *_session;
    struct gnutls_certificate_credentials_st *_credentials;
}

/// The server's certificate must be of `host`, and vouched for by the system's authorities or those in `trustFile` (PEM).
- (instancetype)initWithHost:(NSString *)host trustFile:(nullable NSString *)trustFile NS_DESIGNATED_INITIALIZER;
- (instancetype)init RBW_UNAVAILABLE;

@property (nonatomic, readonly) RBWTLSState state;
@property (nonatomic, readonly, copy, nullable) NSString *failure;

/// From the line.
- (void)appendBytes:(const void *)bytes length:(NSUInteger)length;
/// Goes on with the handshake as far as what came allows.
- (void)handshake;
/// What the application may read now; empty for nothing.
- (NSData *)takePlaintext;
/// From the application; the session is open.
- (void)write:(NSData *)plaintext;
/// To the line; empty for nothing.
- (NSData *)takeOutgoing;

@end

NS_ASSUME_NONNULL_END
