//! A text that opens something to whoever knows it: a token, a key, a URL with a password. It never gets into a log, a
//! page or a panic: what prints a `Secret` prints `***`. `expose` is the only way to the text.

use std::fmt;
use subtle::ConstantTimeEq;

/// Empty: there is none. Compared in constant time, but for the length.
#[derive(Clone, Default)]
pub struct Secret(String);

impl Secret {
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whoever shows this text knows the secret. An empty secret is known to nobody.
    pub fn is_known_by(&self, shown: &[u8]) -> bool {
        !self.is_empty() && bool::from(self.0.as_bytes().ct_eq(shown))
    }

    /// The text itself: to sign with, to connect with, never to print.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl From<String> for Secret {
    fn from(text: String) -> Secret {
        Secret(text)
    }
}

impl From<&str> for Secret {
    fn from(text: &str) -> Secret {
        Secret(text.to_owned())
    }
}

impl PartialEq for Secret {
    fn eq(&self, other: &Secret) -> bool {
        self.0.as_bytes().ct_eq(other.0.as_bytes()).into()
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(HIDDEN)
    }
}

impl fmt::Display for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(HIDDEN)
    }
}

const HIDDEN: &str = "***";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_prints_as_stars_whatever_prints_it() {
        #[derive(Debug)]
        #[expect(dead_code, reason = "it is printed")]
        struct Holder {
            secrets: Vec<Secret>,
        }
        let secret = Secret::from("hunter2");
        let holder = Holder { secrets: vec![secret.clone()] };
        let printed = format!("{secret} {secret:?} {holder:?} {holder:#?}");
        assert!(printed.contains(HIDDEN) && !printed.contains("hunter2"), "{printed}");
    }

    #[test]
    fn whoever_shows_the_text_knows_it_and_an_empty_one_nobody_knows() {
        let secret = Secret::from("hunter2");
        assert!(secret.is_known_by(b"hunter2"));
        for wrong in ["", "hunter", "hunter22", "Hunter2"] {
            assert!(!secret.is_known_by(wrong.as_bytes()), "{wrong}");
        }
        assert!(Secret::default().is_empty() && !Secret::default().is_known_by(b""));
        assert_eq!(secret, Secret::from(String::from("hunter2")));
        assert_ne!(secret, Secret::default());
    }
}
