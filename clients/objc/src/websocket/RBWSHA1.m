#import "RBWSHA1.h"

static uint32_t rotated(uint32_t word, unsigned bits) {
    return word << bits | word >> (32 - bits);
}

/// One block of 64 bytes, FIPS 180-4 section 6.1.2.
static void addBlock(uint32_t state[5], const uint8_t *block) {
    uint32_t words[80];
    for (unsigned at = 0; at < 16; at++) {
        const uint8_t *bytes = block + 4 * at;
        words[at] = (uint32_t)bytes[0] << 24 | (uint32_t)bytes[1] << 16 | (uint32_t)bytes[2] << 8 | bytes[3];
    }
    for (unsigned at = 16; at < 80; at++) {
        words[at] = rotated(words[at - 3] ^ words[at - 8] ^ words[at - 14] ^ words[at - 16], 1);
    }
    uint32_t a = state[0], b = state[1], c = state[2], d = state[3], e = state[4];
    for (unsigned at = 0; at < 80; at++) {
        uint32_t mixed;
        if (at < 20) mixed = ((b & c) | (~b & d)) + 0x5a827999;
        else if (at < 40) mixed = (b ^ c ^ d) + 0x6ed9eba1;
        else if (at < 60) mixed = ((b & c) | (b & d) | (c & d)) + 0x8f1bbcdc;
        else mixed = (b ^ c ^ d) + 0xca62c1d6;
        uint32_t next = rotated(a, 5) + mixed + e + words[at];
        e = d;
        d = c;
        c = rotated(b, 30);
        b = a;
        a = next;
    }
    state[0] += a;
    state[1] += b;
    state[2] += c;
    state[3] += d;
    state[4] += e;
}

NSData *RBWSHA1(NSData *data) {
    // The message, a one bit, zeros up to 8 bytes before the end of a block, and its length in bits.
    NSUInteger padded = (data.length + 8) / 64 * 64 + 64;
    NSMutableData *message = [NSMutableData dataWithLength:padded];
    uint8_t *bytes = message.mutableBytes;
    [data getBytes:bytes length:data.length];
    bytes[data.length] = 0x80;
    uint64_t bits = (uint64_t)data.length * 8;
    for (unsigned at = 0; at < 8; at++) bytes[padded - 1 - at] = (uint8_t)(bits >> 8 * at);

    uint32_t state[5] = {0x67452301, 0xefcdab89, 0x98badcfe, 0x10325476, 0xc3d2e1f0};
    for (NSUInteger at = 0; at < padded; at += 64) addBlock(state, bytes + at);
    uint8_t digest[20];
    for (unsigned at = 0; at < 20; at++) digest[at] = (uint8_t)(state[at / 4] >> (24 - 8 * (at % 4)));
    return [NSData dataWithBytes:digest length:sizeof digest];
}
