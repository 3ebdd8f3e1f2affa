//! Keys with which a restarted relay tells peers at once that their connections to the earlier process are gone.
//!
//! QUIC lets an endpoint answer a packet of a connection it does not know with a token that only it can make; the peer
//! then ends the connection at once instead of after the idle timeout. The keys are derived from the relay's private key
//! so that they survive a restart, and from the number of the endpoint, so that no two endpoints can make each other's
//! tokens: one that could would let whoever sees a connection id end that connection.

use std::fmt;
use std::sync::Arc;

use quinn::EndpointConfig;
use quinn::crypto::{CryptoError, HmacKey};
use quinn_proto::{ConnectionIdGenerator, HashedConnectionIdGenerator};
use rustls::crypto::ring::cipher_suite::TLS13_AES_128_GCM_SHA256;
use rustls::crypto::tls13::OkmBlock;

/// Length of a SHA-256 HMAC.
const TAG_BYTES: usize = 32;

/// What the keys of all endpoints of this relay are derived from. Never printed.
#[derive(Clone)]
pub(super) struct ResetSecret([u8; TAG_BYTES]);

impl ResetSecret {
    /// Derived from the private key and name of this relay.
    pub(super) fn derive(private_key: &[u8], relay: &str) -> Self {
        let key = Self(tag(b"strait reset key", private_key));
        Self(tag(&key.0, relay.as_bytes()))
    }

    /// Configuration of the endpoint with this number: the same after a restart, another one for each number.
    pub(super) fn endpoint(&self, number: u64) -> EndpointConfig {
        let reset = ResetKey(tag(&self.0, &[b"reset", &number.to_be_bytes()[..]].concat()));
        let ids = tag(&self.0, &[b"ids", &number.to_be_bytes()[..]].concat());
        let ids = ids.first_chunk().map_or(number, |bytes| u64::from_be_bytes(*bytes));
        let mut config = EndpointConfig::new(Arc::new(reset));
        config.cid_generator(move || -> Box<dyn ConnectionIdGenerator> {
            Box::new(HashedConnectionIdGenerator::from_key(ids))
        });
        config
    }
}

impl fmt::Debug for ResetSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ResetSecret(..)")
    }
}

struct ResetKey([u8; TAG_BYTES]);

impl HmacKey for ResetKey {
    fn sign(&self, data: &[u8], signature_out: &mut [u8]) {
        for (out, byte) in signature_out.iter_mut().zip(tag(&self.0, data)) {
            *out = byte;
        }
    }

    fn signature_len(&self) -> usize {
        TAG_BYTES
    }

    fn verify(&self, data: &[u8], signature: &[u8]) -> Result<(), CryptoError> {
        // All bytes are compared, whatever the first difference, so that time tells nothing.
        let expected = tag(&self.0, data);
        let different = expected.iter().zip(signature).fold(0, |sum, (a, b)| sum | (a ^ b));
        if different == 0 && signature.len() == TAG_BYTES {
            Ok(())
        } else {
            Err(CryptoError)
        }
    }
}

/// HMAC-SHA256 of `message`; the key has at most 64 bytes.
fn tag(key: &[u8], message: &[u8]) -> [u8; TAG_BYTES] {
    let mut tag = [0; TAG_BYTES];
    if let Some(suite) = TLS13_AES_128_GCM_SHA256.tls13() {
        let made = suite.hkdf_provider.hmac_sign(&OkmBlock::new(key), message);
        for (out, byte) in tag.iter_mut().zip(made.as_ref()) {
            *out = *byte;
        }
    }
    tag
}

#[cfg(test)]
mod tests {
    use super::*;

    // RFC 4231, test case 2: the derivation really is HMAC-SHA256.
    #[test]
    fn tags_are_hmac_sha256() {
        let tag = tag(b"Jefe", b"what do ya want for nothing?");
        assert_eq!(tag[..4], [0x5b, 0xdc, 0xc1, 0x46]);
        assert_eq!(tag[28..], [0x64, 0xec, 0x38, 0x43]);
    }

    // An endpoint that could make the token of another one would end its connections for whoever asks.
    #[test]
    fn endpoints_and_relays_have_keys_of_their_own() {
        let sign = |secret: &ResetSecret, number: u64| tag(&secret.0, &number.to_be_bytes());
        let one = ResetSecret::derive(b"key", "a-1");
        assert_eq!(one.0, ResetSecret::derive(b"key", "a-1").0);
        assert_ne!(one.0, ResetSecret::derive(b"key", "a-2").0);
        assert_ne!(one.0, ResetSecret::derive(b"other", "a-1").0);
        assert_ne!(sign(&one, 0), sign(&one, 1));
        assert_eq!(format!("{one:?}"), "ResetSecret(..)");
        let key = ResetKey(one.0);
        let mut signature = [0; TAG_BYTES];
        key.sign(b"id", &mut signature);
        assert!(key.verify(b"id", &signature).is_ok());
        assert!(key.verify(b"id", &signature[..31]).is_err());
        assert!(key.verify(b"other", &signature).is_err());
    }
}
