#import "RBWTLS.h"

#if !RBW_APPLE

#import "RBWOwnership.h"

#include <arpa/inet.h>
#include <errno.h>
// A name in GnuTLS's headers is a word of Objective-C.
#define id gnutlsID
#include <gnutls/gnutls.h>
#undef id

enum { RecordMax = 16 * 1024 };

static ssize_t pull(gnutls_transport_ptr_t pointer, void *bytes, size_t length);
static ssize_t push(gnutls_transport_ptr_t pointer, const void *bytes, size_t length);
static int pullTimeout(gnutls_transport_ptr_t pointer, unsigned milliseconds);
static BOOL isAddress(const char *name);

@interface RBWTLS ()
@property (nonatomic) RBWTLSState state;
@property (nonatomic, copy, nullable) NSString *failure;
@end

@implementation RBWTLS

@synthesize state = _state, failure = _failure;

- (instancetype)initWithHost:(NSString *)host trustFile:(NSString *)trustFile {
    if ((self = [super init])) {
        _incoming = [[NSMutableData alloc] init];
        _outgoing = [[NSMutableData alloc] init];
        gnutls_certificate_allocate_credentials(&_credentials);
        gnutls_certificate_set_x509_system_trust(_credentials);
        if (trustFile != nil) {
            int count = gnutls_certificate_set_x509_trust_file(_credentials, trustFile.fileSystemRepresentation, GNUTLS_X509_FMT_PEM);
            if (count < 0) [self fail:[NSString stringWithFormat:@"%@: %s", trustFile, gnutls_strerror(count)]];
        }
        gnutls_init(&_session, GNUTLS_CLIENT | GNUTLS_NONBLOCK);
        gnutls_set_default_priority(_session);
        gnutls_credentials_set(_session, GNUTLS_CRD_CERTIFICATE, _credentials);
        _host = strdup(host.UTF8String);
        // RFC 6066 section 3: an address is no server name.
        if (!isAddress(_host)) gnutls_server_name_set(_session, GNUTLS_NAME_DNS, _host, strlen(_host));
        gnutls_session_set_verify_cert(_session, _host, 0);
        gnutls_transport_set_ptr(_session, (__bridge void *)self);
        gnutls_transport_set_pull_function(_session, pull);
        gnutls_transport_set_push_function(_session, push);
        gnutls_transport_set_pull_timeout_function(_session, pullTimeout);
    }
    return self;
}

- (void)dealloc {
    gnutls_deinit(_session);
    gnutls_certificate_free_credentials(_credentials);
    free(_host);
    RBW_RELEASE(_failure);
    RBW_RELEASE(_incoming);
    RBW_RELEASE(_outgoing);
    RBW_SUPER_DEALLOC;
}

- (void)appendBytes:(const void *)bytes length:(NSUInteger)length {
    [_incoming appendBytes:bytes length:length];
}

- (void)handshake {
    if (self.state != RBWTLSHandshaking) return;
    int result = gnutls_handshake(_session);
    if (result == GNUTLS_E_SUCCESS) self.state = RBWTLSOpen;
    else if (result == GNUTLS_E_CERTIFICATE_VERIFICATION_ERROR) [self fail:[self certificateFailure]];
    else if (gnutls_error_is_fatal(result)) [self fail:@(gnutls_strerror(result))];
}

- (NSString *)certificateFailure {
    gnutls_datum_t text = {NULL, 0};
    unsigned status = gnutls_session_get_verify_cert_status(_session);
    gnutls_certificate_type_t type = gnutls_certificate_type_get(_session);
    if (gnutls_certificate_verification_status_print(status, type, &text, 0) < 0) return @"bad certificate";
    NSString *why = [NSString stringWithUTF8String:(const char *)text.data] ?: @"bad certificate";
    gnutls_free(text.data);
    return why;
}

- (NSData *)takePlaintext {
    NSMutableData *plaintext = [NSMutableData data];
    uint8_t bytes[RecordMax];
    // It ends with what came, of which each turn takes some.
    while (self.state == RBWTLSOpen) {
        NSUInteger before = _incoming.length - _position;
        ssize_t length = gnutls_record_recv(_session, bytes, sizeof bytes);
        if (length > 0) [plaintext appendBytes:bytes length:(NSUInteger)length];
        else if (length == 0) self.state = RBWTLSEnded;
        else if (length == GNUTLS_E_AGAIN || length == GNUTLS_E_INTERRUPTED) {
            // Said also after a message of TLS's own, such as a session ticket, though there may be more behind it.
            NSUInteger left = _incoming.length - _position;
            if (left == 0 || left == before) break;
        }
        // Asked to shake hands again, which TLS 1.3 no longer knows, or worse.
        else if (length == GNUTLS_E_REHANDSHAKE || gnutls_error_is_fatal((int)length)) [self fail:@(gnutls_strerror((int)length))];
    }
    return plaintext;
}

- (void)write:(NSData *)plaintext {
    const uint8_t *bytes = plaintext.bytes;
    NSUInteger length = plaintext.length;
    while (length > 0 && self.state == RBWTLSOpen) {
        ssize_t written = gnutls_record_send(_session, bytes, length);
        // `push` takes everything, so nothing has to be tried again.
        if (written < 0) return [self fail:@(gnutls_strerror((int)written))];
        bytes += written;
        length -= (NSUInteger)written;
    }
}

- (NSData *)takeOutgoing {
    NSData *outgoing = RBW_AUTORELEASE([_outgoing copy]);
    _outgoing.length = 0;
    return outgoing;
}

- (void)fail:(NSString *)why {
    self.state = RBWTLSFailed;
    self.failure = why;
}

- (ssize_t)pull:(void *)bytes length:(size_t)length {
    size_t available = _incoming.length - _position;
    if (available == 0) {
        gnutls_transport_set_errno(_session, EAGAIN);
        return -1;
    }
    size_t taken = MIN(available, length);
    memcpy(bytes, (const uint8_t *)_incoming.bytes + _position, taken);
    _position += taken;
    if (_position == _incoming.length) {
        _incoming.length = 0;
        _position = 0;
    }
    return (ssize_t)taken;
}

- (ssize_t)push:(const void *)bytes length:(size_t)length {
    [_outgoing appendBytes:bytes length:length];
    return (ssize_t)length;
}

- (BOOL)hasIncoming {
    return _incoming.length > _position;
}

static ssize_t pull(gnutls_transport_ptr_t pointer, void *bytes, size_t length) {
    return [(__bridge RBWTLS *)pointer pull:bytes length:length];
}

static ssize_t push(gnutls_transport_ptr_t pointer, const void *bytes, size_t length) {
    return [(__bridge RBWTLS *)pointer push:bytes length:length];
}

static int pullTimeout(gnutls_transport_ptr_t pointer, unsigned milliseconds) {
    (void)milliseconds;
    return [(__bridge RBWTLS *)pointer hasIncoming];
}

static BOOL isAddress(const char *name) {
    uint8_t address[16];
    return inet_pton(AF_INET, name, address) == 1 || inet_pton(AF_INET6, name, address) == 1;
}

@end

#endif
