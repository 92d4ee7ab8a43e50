//! Both signature schemes: the first implementation's (SHA-1 over token, timestamp and nonce) and Standard Webhooks
//! (HMAC-SHA256 over id, timestamp and body), each both ways.
//!
//! Time, nonces and ids come in as parameters. Signatures are compared in constant time. No error and no `Debug` output
//! holds a secret or a signature. Called by the control API (verify) and the client of the business server (sign).

use crate::base::digits::{Decimal, hex_of};
use base64::Engine;
use base64::engine::general_purpose::{STANDARD, STANDARD_NO_PAD};
use hmac::{Hmac, KeyInit, Mac};
use sha1::{Digest, Sha1};
use sha2::Sha256;
use std::fmt;
use std::hash::{DefaultHasher, Hasher};
use subtle::{Choice, ConstantTimeEq};

pub const WEBHOOK_ID: &str = "webhook-id";
pub const WEBHOOK_TIMESTAMP: &str = "webhook-timestamp";
pub const WEBHOOK_SIGNATURE: &str = "webhook-signature";
/// Ours: method and target of the request, which the scheme itself does not cover.
pub const WEBHOOK_TARGET: &str = "webhook-target";

/// Why a signature, or a key, is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SignError {
    /// No token, or no webhook key, is configured: nothing can be signed validly.
    #[error("no key for this scheme")]
    NoKey,
    /// For whoever takes the parts from a query or from headers.
    #[error("{field} is missing")]
    Missing { field: &'static str },
    #[error("timestamp is not a number of seconds")]
    TimestampMalformed,
    #[error("timestamp {timestamp_s} is more than {window_s} s away from {now_s}")]
    TimestampOutsideWindow { timestamp_s: u64, now_s: u64, window_s: u64 },
    #[error("nonce is empty, longer than 64 characters, or not printable ASCII")]
    NonceMalformed,
    #[error("this signature was made by Rainbow, for a request of its own")]
    OwnNonce,
    #[error("webhook-target is not the method and the target of this request")]
    OtherTarget,
    #[error("webhook id and timestamp were used before")]
    Replayed,
    #[error("id is empty, too long, or not printable ASCII without full stops")]
    IdMalformed,
    #[error("signature does not match")]
    Mismatch,
    #[error("webhook secret does not begin with whsec_")]
    SecretPrefix,
    #[error("webhook secret is not base64")]
    SecretEncoding,
    #[error("webhook secret has {len} bytes, not {min} to {max}")]
    SecretLength { len: usize, min: usize, max: usize },
}

impl SignError {
    /// The HTTP status that answers an unsigned or badly signed call.
    pub fn status(self) -> u16 {
        401
    }
}

/// 40 lower-case hex digits: SHA-1 over the three strings, sorted bytewise and concatenated.
pub fn sign_2014(token: &str, timestamp: &str, nonce: &str) -> [u8; 40] {
    let mut texts = [token, timestamp, nonce];
    texts.sort_unstable();
    let mut text = [0; 128];
    let digest = match texts.map(str::len).iter().sum::<usize>() {
        // In one piece: the hash's own buffering of short texts costs as much as the hash.
        len @ ..=128 => {
            let mut rest = &mut text[..];
            for one in texts {
                let (to, behind) = rest.split_at_mut(one.len());
                to.copy_from_slice(one.as_bytes());
                rest = behind;
            }
            Sha1::digest(&text[..len])
        }
        _ => texts.iter().fold(Sha1::new(), |hash, one| hash.chain_update(one)).finalize(),
    };
    hex_of::<20, 40>(digest.into())
}

/// The three query parameters of a signed call, as sent.
#[derive(Clone, Copy)]
pub struct Signed2014<'a> {
    pub timestamp: &'a str,
    pub nonce: &'a str,
    pub signature: &'a str,
}

/// An empty `token` matches nothing. `now_s` is Unix time. Who must not take our own signatures back checks the nonce
/// with `NonceTag` too.
pub fn verify_2014(token: &str, signed: Signed2014<'_>, now_s: u64, window_s: u64) -> Result<(), SignError> {
    if token.is_empty() {
        return Err(SignError::NoKey);
    }
    check_window(signed.timestamp, now_s, window_s)?;
    let is_printable = signed.nonce.bytes().all(|byte| matches!(byte, b' '..=b'~'));
    if signed.nonce.is_empty() || signed.nonce.len() > NONCE_BYTES_MAX || !is_printable {
        return Err(SignError::NonceMalformed);
    }
    let expected = sign_2014(token, signed.timestamp, signed.nonce);
    let sent: &[u8; 40] = signed.signature.as_bytes().try_into().map_err(|_| SignError::Mismatch)?;
    if bool::from(words(&expected).ct_eq(&words(&sent.map(|byte| byte.to_ascii_lowercase())))) {
        Ok(())
    } else {
        Err(SignError::Mismatch)
    }
}

/// Makes the nonces of our own 2014 signatures, and knows them again: a nonce is a serial number and a tag of it that
/// only whoever has the token can make. All nodes of a cluster have the token, so each knows the others' too.
#[derive(Clone)]
pub struct NonceTag {
    key: [u8; 16],
}

impl NonceTag {
    pub fn new(token: &str) -> NonceTag {
        let digest = Sha256::new().chain_update("rainbow nonce tag\0").chain_update(token).finalize();
        NonceTag { key: digest[..16].try_into().expect("sixteen bytes") }
    }

    /// The digits of a number. Equal serials give equal nonces; `SERIALS` of them are different.
    pub fn nonce(&self, serial: u64, timestamp: &str) -> [u8; NonceTag::DIGITS] {
        let serial = serial % NonceTag::SERIALS;
        let number = NonceTag::MARKED + serial * NonceTag::TAGS + self.tag(serial, timestamp);
        Decimal::of(number).as_bytes().try_into().expect("nineteen digits")
    }

    /// Whether the nonce is one of ours.
    pub fn made(&self, nonce: &str, timestamp: &str) -> bool {
        let is_number = nonce.bytes().all(|byte| byte.is_ascii_digit());
        if nonce.len() != NonceTag::DIGITS || !is_number || nonce.as_bytes()[0] != NonceTag::MARK {
            return false;
        }
        let number: u64 = nonce[1..].parse().expect("eighteen digits");
        self.tag(number / NonceTag::TAGS, timestamp) == number % NonceTag::TAGS
    }

    fn tag(&self, serial: u64, timestamp: &str) -> u64 {
        // SipHash with the key in front of what it hashes. The tag is no secret and need not resist a search: whoever
        // changes it needs the token for the signature over it.
        let mut keyed = [0; 24];
        keyed[..16].copy_from_slice(&self.key);
        keyed[16..].copy_from_slice(&serial.to_ne_bytes());
        let mut hash = DefaultHasher::new();
        hash.write(&keyed);
        hash.write(timestamp.as_bytes());
        hash.finish() % NonceTag::TAGS
    }

    pub const SERIALS: u64 = 100_000_000_000;
    const TAGS: u64 = 10_000_000;
    const DIGITS: usize = 19;
    const MARK: u8 = b'8';
    /// A number that begins with `MARK` and has room for the largest serial and tag behind it.
    const MARKED: u64 = 8 * NonceTag::SERIALS * NonceTag::TAGS;
}

/// Compared in constant time like bytes, with an eighth of the barriers.
fn words(digits: &[u8; 40]) -> [u64; 5] {
    std::array::from_fn(|at| u64::from_ne_bytes(digits[at * 8..][..8].try_into().expect("eight bytes")))
}

/// A Standard Webhooks key. Two may be valid at a time while the operator changes from one to the other.
#[derive(Clone, PartialEq, Eq)]
pub struct WebhookKey(Vec<u8>);

impl WebhookKey {
    /// Reads `whsec_` and 24 to 64 bytes in base64, padded or not.
    pub fn parse(secret: &str) -> Result<WebhookKey, SignError> {
        let encoded = secret.trim().strip_prefix("whsec_").ok_or(SignError::SecretPrefix)?;
        let decoded = STANDARD_NO_PAD.decode(encoded.trim_end_matches('='));
        let key = decoded.map_err(|_| SignError::SecretEncoding)?;
        // The specification's own bounds: less is guessed, more is hashed down anyway.
        let (min, max) = (24, 64);
        if !(min..=max).contains(&key.len()) {
            return Err(SignError::SecretLength { len: key.len(), min, max });
        }
        Ok(WebhookKey(key))
    }

    fn mac(&self, target: Option<&str>, id: &str, timestamp: &str, body: &[u8]) -> [u8; WEBHOOK_MAC_BYTES] {
        let mut mac = Hmac::<Sha256>::new_from_slice(&self.0).expect("HMAC takes keys of any length");
        if let Some(target) = target {
            mac = mac.chain_update(target).chain_update(".");
        }
        let mac = mac.chain_update(id).chain_update(".").chain_update(timestamp).chain_update(".").chain_update(body);
        mac.finalize().into_bytes().into()
    }
}

impl fmt::Debug for WebhookKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("WebhookKey(…)")
    }
}

/// The value of `webhook-signature`: one `v1,<base64>` per key, separated by blanks. `timestamp_s` is sent along as
/// decimal digits in `webhook-timestamp`, `id` in `webhook-id`: printable ASCII without full stops.
pub fn sign_webhook(keys: &[WebhookKey], id: &str, timestamp_s: u64, body: &[u8]) -> String {
    signatures(keys, None, id, timestamp_s, body)
}

/// The same for a call to Rainbow: `target`, such as `POST /send/?channel=a`, is sent along in `webhook-target`.
pub fn sign_webhook_call(keys: &[WebhookKey], target: &str, id: &str, timestamp_s: u64, body: &[u8]) -> String {
    signatures(keys, Some(target), id, timestamp_s, body)
}

fn signatures(keys: &[WebhookKey], target: Option<&str>, id: &str, timestamp_s: u64, body: &[u8]) -> String {
    debug_assert!(is_webhook_id(id), "a receiver would refuse this id");
    let timestamp = timestamp_s.to_string();
    let mut signatures = String::new();
    for key in keys {
        signatures.push_str(if signatures.is_empty() { "v1," } else { " v1," });
        STANDARD.encode_string(key.mac(target, id, &timestamp, body), &mut signatures);
    }
    signatures
}

/// The headers of a signed call, as sent.
#[derive(Clone, Copy)]
pub struct SignedWebhook<'a> {
    /// `POST /send/?channel=a`, where it is part of what is signed.
    pub target: Option<&'a str>,
    pub id: &'a str,
    pub timestamp: &'a str,
    pub signatures: &'a str,
}

/// Whether any of the signatures is by any of the keys. `body` is the request body, byte for byte; `now_s` is Unix
/// time.
pub fn verify_webhook(
    keys: &[WebhookKey],
    signed: SignedWebhook<'_>,
    body: &[u8],
    now_s: u64,
    window_s: u64,
) -> Result<(), SignError> {
    check_webhook_fields(keys, signed, now_s, window_s)?;
    let expected = keys.iter().map(|key| key.mac(signed.target, signed.id, signed.timestamp, body));
    let mut found = Choice::from(0);
    for expected in expected {
        for sent in signatures_v1(signed.signatures) {
            found |= expected.as_slice().ct_eq(&sent);
        }
    }
    if bool::from(found) { Ok(()) } else { Err(SignError::Mismatch) }
}

/// Why a signature would be refused whatever the body is: for whoever has only the head. The body's own check, which
/// must follow, does not rely on it.
pub fn check_webhook_head(
    keys: &[WebhookKey],
    signed: SignedWebhook<'_>,
    now_s: u64,
    window_s: u64,
) -> Result<(), SignError> {
    check_webhook_fields(keys, signed, now_s, window_s)?;
    let may_match = signatures_v1(signed.signatures).any(|signature| signature.len() == WEBHOOK_MAC_BYTES);
    if may_match { Ok(()) } else { Err(SignError::Mismatch) }
}

fn check_webhook_fields(
    keys: &[WebhookKey],
    signed: SignedWebhook<'_>,
    now_s: u64,
    window_s: u64,
) -> Result<(), SignError> {
    if keys.is_empty() {
        return Err(SignError::NoKey);
    }
    // With full stops in an id, "a.1" at 2 would sign the same bytes as "a" at 1.
    if !is_webhook_id(signed.id) {
        return Err(SignError::IdMalformed);
    }
    check_window(signed.timestamp, now_s, window_s)
}

/// The decoded `v1` signatures of a list; other versions are for other receivers.
fn signatures_v1(list: &str) -> impl Iterator<Item = Vec<u8>> {
    let entries = list.split_ascii_whitespace().take(WEBHOOK_SIGNATURES_MAX);
    entries.filter_map(|entry| STANDARD.decode(entry.strip_prefix("v1,")?).ok())
}

fn is_webhook_id(id: &str) -> bool {
    !id.is_empty() && id.len() <= WEBHOOK_ID_BYTES_MAX && id.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'.')
}

fn check_window(timestamp: &str, now_s: u64, window_s: u64) -> Result<(), SignError> {
    // `parse` alone would let a plus sign pass.
    let digits = timestamp.bytes().all(|byte| byte.is_ascii_digit());
    let timestamp_s: u64 = timestamp.parse().ok().filter(|_| digits).ok_or(SignError::TimestampMalformed)?;
    if timestamp_s.abs_diff(now_s) > window_s {
        return Err(SignError::TimestampOutsideWindow { timestamp_s, now_s, window_s });
    }
    Ok(())
}

const NONCE_BYTES_MAX: usize = 64;
const WEBHOOK_ID_BYTES_MAX: usize = 256;
/// Of HMAC-SHA256.
const WEBHOOK_MAC_BYTES: usize = 32;
/// More are not looked at: a sender has a few keys at most, and each one costs us a comparison.
const WEBHOOK_SIGNATURES_MAX: usize = 16;

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// The example of the Standard Webhooks specification.
    const SECRET: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";
    const OTHER_SECRET: &str = "whsec_AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA";
    const ID: &str = "msg_p5jXN8AQM9LWM0D4loKWxJek";
    const TIME_S: u64 = 1_614_265_330;
    const BODY: &[u8] = br#"{"test": 2432232314}"#;
    const SIGNATURE: &str = "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=";

    fn key(secret: &str) -> WebhookKey {
        WebhookKey::parse(secret).unwrap()
    }

    fn signed(signatures: &str) -> SignedWebhook<'_> {
        SignedWebhook { target: None, id: ID, timestamp: "1614265330", signatures }
    }

    fn verify(keys: &[WebhookKey], signatures: &str) -> Result<(), SignError> {
        verify_webhook(keys, signed(signatures), BODY, TIME_S, 10)
    }

    fn signed_2014<'a>(timestamp: &'a str, nonce: &'a str, signature: &'a str) -> Signed2014<'a> {
        Signed2014 { timestamp, nonce, signature }
    }

    #[test]
    fn the_2014_signature_sorts_its_parts_as_strings() {
        // printf %s 14000000007testtoken | sha1sum, and with nonce 123, which sorts before the timestamp.
        assert_eq!(&sign_2014("testtoken", "1400000000", "7"), KNOWN_7);
        assert_eq!(&sign_2014("testtoken", "1400000000", "123"), KNOWN_123);
        assert_eq!(sign_2014("a", "b", "c"), sign_2014("c", "a", "b"));
        // python3 -c 'import hashlib; print(hashlib.sha1(b"1" + b"2" + b"t" * N).hexdigest())', N = 126 and 127: the
        // longest that is hashed in one piece, and one more.
        assert_eq!(&sign_2014(&"t".repeat(126), "1", "2"), LONGEST);
        assert_eq!(&sign_2014(&"t".repeat(127), "1", "2"), LONGER);
    }

    #[test]
    fn our_nonces_are_known_again_and_others_are_not() {
        let tag = NonceTag::new("testtoken");
        let nonce = |serial| String::from_utf8(tag.nonce(serial, "1400000000").to_vec()).expect("digits");
        let (next, nonce) = (nonce(42), nonce(41));
        assert!(nonce.starts_with("800000000041"), "{nonce}");
        assert!(tag.made(&nonce, "1400000000") && NonceTag::new("testtoken").made(&nonce, "1400000000"));
        assert!(!tag.made(&nonce, "1400000001") && !NonceTag::new("othertoken").made(&nonce, "1400000000"));
        assert_ne!(nonce, next);
        assert_eq!(tag.nonce(NonceTag::SERIALS + 1, "1"), tag.nonce(1, "1"));
        let foreign = ["", "7", "8", "8000000000000000000", "9223372036854775807", "80000000001x0000000"];
        assert!(!foreign.into_iter().any(|nonce| tag.made(nonce, "1400000000")));
    }

    #[test]
    fn a_head_is_refused_for_what_no_body_could_mend_and_for_nothing_else() {
        let keys = [key(SECRET)];
        let check = |signed, now_s| check_webhook_head(&keys, signed, now_s, 10);
        assert_eq!(check(signed(SIGNATURE), TIME_S + 10), Ok(()));
        let of_another_body = format!("v1,{}", STANDARD.encode([7; WEBHOOK_MAC_BYTES]));
        assert_eq!(check(signed(&of_another_body), TIME_S), Ok(()), "that takes the body");
        assert_eq!(check_webhook_head(&[], signed(SIGNATURE), TIME_S, 10), Err(SignError::NoKey));
        assert!(matches!(check(signed(SIGNATURE), TIME_S + 11), Err(SignError::TimestampOutsideWindow { .. })));
        assert_eq!(check(SignedWebhook { id: "a.b", ..signed(SIGNATURE) }, TIME_S), Err(SignError::IdMalformed));
        for none in ["", "v1,", "v2,AAAA", "v1,AAAA", "v1"] {
            assert_eq!(check(signed(none), TIME_S), Err(SignError::Mismatch), "{none:?}");
            assert_eq!(verify(&keys, none), Err(SignError::Mismatch), "{none:?}");
        }
    }

    #[test]
    fn a_webhook_signature_may_cover_the_target() {
        let (keys, target) = ([key(SECRET)], "POST /send/?channel=a");
        let signature = format!("v1,{}", STANDARD.encode(keys[0].mac(Some(target), ID, "1614265330", BODY)));
        let verify = |target| {
            let signed = SignedWebhook { target, ..signed(&signature) };
            verify_webhook(&keys, signed, BODY, TIME_S, 10)
        };
        assert_eq!(verify(Some(target)), Ok(()));
        assert_eq!(verify(Some("POST /send/?channel=b")), Err(SignError::Mismatch));
        assert_eq!(verify(None), Err(SignError::Mismatch), "it cannot be left out");
        assert_eq!(
            verify_webhook(&keys, SignedWebhook { target: Some(target), ..signed(SIGNATURE) }, BODY, TIME_S, 10),
            Err(SignError::Mismatch)
        );
    }

    #[test]
    fn a_2014_signature_holds_within_its_window() {
        let signature = std::str::from_utf8(KNOWN_7).unwrap();
        let verify = |now_s| verify_2014("testtoken", signed_2014("1400000000", "7", signature), now_s, 10);
        assert_eq!(verify(1_400_000_000), Ok(()));
        assert_eq!(verify(1_400_000_010), Ok(()));
        assert_eq!(verify(1_399_999_990), Ok(()));
        for now_s in [1_400_000_011, 1_399_999_989, 0] {
            let stale = SignError::TimestampOutsideWindow { timestamp_s: 1_400_000_000, now_s, window_s: 10 };
            assert_eq!(verify(now_s), Err(stale));
        }
        let upper = signature.to_uppercase();
        assert_eq!(verify_2014("testtoken", signed_2014("1400000000", "7", &upper), 1_400_000_000, 10), Ok(()));
    }

    #[test]
    fn what_the_2014_token_did_not_sign_is_refused() {
        let good = std::str::from_utf8(KNOWN_7).unwrap();
        let verify = |token, timestamp, nonce, signature| {
            verify_2014(token, signed_2014(timestamp, nonce, signature), 1_400_000_000, 10)
        };
        assert_eq!(verify("testtokem", "1400000000", "7", good), Err(SignError::Mismatch));
        assert_eq!(verify("testtoken", "1400000001", "7", good), Err(SignError::Mismatch));
        assert_eq!(verify("testtoken", "1400000000", "8", good), Err(SignError::Mismatch));
        assert_eq!(verify("testtoken", "1400000000", "7", &good[..39]), Err(SignError::Mismatch));
        assert_eq!(verify("testtoken", "1400000000", "7", ""), Err(SignError::Mismatch));
        for timestamp in ["", "+1400000000", "1400000000.5", "x", "99999999999999999999"] {
            assert_eq!(verify("testtoken", timestamp, "7", good), Err(SignError::TimestampMalformed), "{timestamp}");
        }
        for nonce in ["", "tab\t", "n\u{f6}", &"7".repeat(65)] {
            assert_eq!(verify("testtoken", "1400000000", nonce, good), Err(SignError::NonceMalformed), "{nonce}");
        }
    }

    #[test]
    fn an_empty_token_signs_nothing() {
        let signature = sign_2014("", "1400000000", "7");
        let signature = std::str::from_utf8(&signature).unwrap();
        let refused = verify_2014("", signed_2014("1400000000", "7", signature), 1_400_000_000, 10);
        assert_eq!(refused, Err(SignError::NoKey));
    }

    #[test]
    fn the_webhook_specification_example_is_met() {
        assert_eq!(sign_webhook(&[key(SECRET)], ID, TIME_S, BODY), SIGNATURE);
        assert_eq!(verify(&[key(SECRET)], SIGNATURE), Ok(()));
    }

    #[test]
    fn either_of_two_keys_is_enough_while_they_change() {
        let (old, new) = (key(SECRET), key(OTHER_SECRET));
        let both = sign_webhook(&[new.clone(), old.clone()], ID, TIME_S, BODY);
        assert_eq!(both.split(' ').nth(1), Some(SIGNATURE));
        assert_eq!(verify(std::slice::from_ref(&old), &both), Ok(()));
        assert_eq!(verify(std::slice::from_ref(&new), &both), Ok(()));
        assert_eq!(verify(&[new.clone(), old], SIGNATURE), Ok(()));
        assert_eq!(verify(&[new], SIGNATURE), Err(SignError::Mismatch));
    }

    #[test]
    fn what_no_webhook_key_signed_is_refused() {
        let keys = [key(SECRET)];
        let with = |id: &'static str, timestamp: &'static str, body: &[u8]| {
            verify_webhook(
                &keys,
                SignedWebhook { target: None, id, timestamp, signatures: SIGNATURE },
                body,
                TIME_S,
                10,
            )
        };
        assert_eq!(with(ID, "1614265330", b"{}"), Err(SignError::Mismatch));
        assert_eq!(with(ID, "1614265331", BODY), Err(SignError::Mismatch));
        assert_eq!(with("msg", "1614265330", BODY), Err(SignError::Mismatch));
        assert_eq!(with("a.b", "1614265330", BODY), Err(SignError::IdMalformed));
        assert_eq!(with("", "1614265330", BODY), Err(SignError::IdMalformed));
        assert_eq!(with(ID, "now", BODY), Err(SignError::TimestampMalformed));
        let stale = SignError::TimestampOutsideWindow { timestamp_s: 1_614_265_341, now_s: TIME_S, window_s: 10 };
        assert_eq!(with(ID, "1614265341", BODY), Err(stale));
        for signatures in ["", "v1,", "v1", "v2,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=", "v1a,x", &SIGNATURE[3..]]
        {
            assert_eq!(verify(&keys, signatures), Err(SignError::Mismatch), "{signatures}");
        }
        assert_eq!(verify(&[], SIGNATURE), Err(SignError::NoKey));
        assert_eq!(verify(&keys, &format!("v1a,x  {SIGNATURE}")), Ok(()));
        assert_eq!(verify(&keys, &format!("{} {SIGNATURE}", "v1,AA== ".repeat(16))), Err(SignError::Mismatch));
    }

    #[test]
    fn webhook_secrets_are_checked_when_read() {
        let parse = |secret| WebhookKey::parse(secret).err();
        assert_eq!(parse("MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"), Some(SignError::SecretPrefix));
        assert_eq!(parse("whsec_!!!"), Some(SignError::SecretEncoding));
        assert_eq!(parse("whsec_MfKQ"), Some(SignError::SecretLength { len: 3, min: 24, max: 64 }));
        let padded = format!("whsec_{}", STANDARD.encode([7; 25]));
        assert!(padded.ends_with("=="));
        assert_eq!(key(&padded), key(padded.trim_end_matches('=')));
    }

    #[test]
    fn a_key_keeps_its_secret_from_logs() {
        assert_eq!(format!("{:?}", key(SECRET)), "WebhookKey(…)");
    }

    proptest! {
        #[test]
        fn what_is_signed_verifies_and_one_changed_byte_does_not(
            body in proptest::collection::vec(any::<u8>(), 1..50),
            position in any::<proptest::sample::Index>(),
            change in 1..=255u8,
        ) {
            let keys = [key(SECRET)];
            let signatures = sign_webhook(&keys, ID, TIME_S, &body);
            prop_assert_eq!(verify_webhook(&keys, signed(&signatures), &body, TIME_S, 0), Ok(()));
            let mut changed = body.clone();
            changed[position.index(body.len())] ^= change;
            prop_assert_eq!(
                verify_webhook(&keys, signed(&signatures), &changed, TIME_S, 0),
                Err(SignError::Mismatch)
            );
        }

        #[test]
        fn no_signature_list_panics(list in any::<String>(), id in any::<String>(), timestamp in any::<String>()) {
            let signed = SignedWebhook { target: None, id: &id, timestamp: &timestamp, signatures: &list };
            prop_assert!(verify_webhook(&[key(SECRET)], signed, BODY, TIME_S, 10).is_err());
            let signed = signed_2014(&timestamp, &id, &list);
            prop_assert!(verify_2014("testtoken", signed, TIME_S, 10).is_err());
        }
    }

    const LONGEST: &[u8; 40] = b"9393517803955f14e6dee0b9b559e0802ac6b76b";
    const LONGER: &[u8; 40] = b"fd63d5068bdb265e2bacc9f3fe961306b18f0e98";
    // By coreutils' sha1sum.
    const KNOWN_7: &[u8; 40] = b"c227f3d6b8340bc2fb49282d95b9d5c18065d61f";
    const KNOWN_123: &[u8; 40] = b"61b0c5f3ae8363f315bea6b9c03d366f73b9ef98";
}
