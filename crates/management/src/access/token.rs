//! API tokens: what they look like, and what is kept of them.

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use plugin_core::Secret;
use runtime::Timestamp;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;
use utoipa::ToSchema;

use crate::{Problem, Role};

/// What every token begins with, so that scanners for leaked secrets know one.
const PREFIX: &str = "gantry_";
/// How long an id is: hexadecimal digits.
const ID_LEN: usize = 16;
/// How many random bytes a secret has.
const SECRET_BYTES: usize = 32;
/// How long that is in base64 without padding.
const SECRET_LEN: usize = 43;
/// How long a name may be.
const NAME_LEN_MAX: usize = 64;

/// An API token as it can be shown: without what it is proved by.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ApiToken {
    /// Its id, which the token itself begins with.
    #[schema(example = "5f1c09a2b47de360")]
    pub id: String,
    /// What it is for. The audit log has what it does under `token:NAME`.
    #[schema(example = "deploy")]
    pub name: String,
    /// What it may do.
    pub role: Role,
    /// When it was made.
    pub created_at: Timestamp,
    /// By whom.
    pub created_by: String,
    /// Until when it holds; for good where nothing is said.
    pub expires_at: Option<Timestamp>,
}

/// A token to be made.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(example = json!({"name": "deploy", "role": "operator", "expires_in": "720h"}))]
pub struct TokenRequest {
    /// What it is for: 1 to 64 of `A-Za-z0-9._-`, and no other token's.
    #[schema(min_length = 1, max_length = 64, pattern = "^[A-Za-z0-9._-]+$")]
    pub name: String,
    /// What it may do.
    pub role: Role,
    /// How long it holds, `1m` at the least and ten years (`87600h`) at the most; for good where nothing is said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(example = "720h")]
    pub expires_in: Option<String>,
}

/// A token that has just been made. Nobody will see its secret again.
#[derive(Debug, Clone)]
pub struct NewToken {
    /// The token.
    pub token: ApiToken,
    /// What its bearer shows.
    pub secret: Secret,
}

/// What is kept of a token.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Kept {
    pub(crate) token: ApiToken,
    /// SHA-256 of the whole token. It has 256 random bits, so that nothing slower would make it harder to guess.
    hash: Hash,
}

/// A digest, in hexadecimal on disk.
#[derive(Clone, PartialEq, Eq)]
struct Hash([u8; 32]);

impl fmt::Debug for Hash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Hash(..)")
    }
}

impl Serialize for Hash {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&hex(&self.0))
    }
}

impl<'de> Deserialize<'de> for Hash {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        let wrong = || serde::de::Error::custom("expected 64 hexadecimal digits");
        let mut hash = [0; 32];
        if text.len() != 64 || !text.is_ascii() {
            return Err(wrong());
        }
        for (at, byte) in hash.iter_mut().enumerate() {
            let digits = text.get(2 * at..2 * at + 2).ok_or_else(wrong)?;
            *byte = u8::from_str_radix(digits, 16).map_err(|_| wrong())?;
        }
        Ok(Self(hash))
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn digest(text: &str) -> Hash {
    Hash(Sha256::digest(text.as_bytes()).into())
}

impl Kept {
    /// A new token, and what its bearer shows.
    pub(crate) fn generate(
        name: &str,
        role: Role,
        created_by: &str,
        created_at: Timestamp,
        expires_at: Option<Timestamp>,
    ) -> Result<(Self, Secret), getrandom::Error> {
        let mut random = [0; ID_LEN / 2 + SECRET_BYTES];
        getrandom::fill(&mut random)?;
        let (id, secret) = random.split_at(ID_LEN / 2);
        let id = hex(id);
        let text = format!("{PREFIX}{id}_{}", URL_SAFE_NO_PAD.encode(secret));
        let token = ApiToken {
            id,
            name: name.to_owned(),
            role,
            created_at,
            created_by: created_by.to_owned(),
            expires_at,
        };
        Ok((Self { token, hash: digest(&text) }, Secret::new(text)))
    }

    /// Whether this is the token that was shown. Takes as long for a near miss as for a wild guess.
    pub(crate) fn is(&self, text: &str) -> bool {
        digest(text).0.ct_eq(&self.hash.0).into()
    }

    /// Whether it does not hold any more.
    pub(crate) fn has_expired(&self, now: Timestamp) -> bool {
        self.token.expires_at.is_some_and(|end| end <= now)
    }
}

/// Whether credentials are meant to be an API token, rather than a JSON Web Token.
pub(crate) fn looks_like_one(text: &str) -> bool {
    text.starts_with(PREFIX)
}

/// The id in a token, if it is written like one.
pub(crate) fn id_of(text: &str) -> Option<&str> {
    let (id, secret) = text.strip_prefix(PREFIX)?.split_at_checked(ID_LEN)?;
    let secret = secret.strip_prefix('_')?;
    let is_id = id.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b));
    let is_secret = secret.len() == SECRET_LEN
        && secret.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_'));
    (is_id && is_secret).then_some(id)
}

impl TokenRequest {
    /// Until when the token holds, if all of it is right.
    pub(crate) fn check(&self, now: Timestamp) -> Result<Option<Timestamp>, Problem> {
        let is_name = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-');
        if !(1..=NAME_LEN_MAX).contains(&self.name.len()) || !self.name.bytes().all(is_name) {
            return Err(Problem::invalid("name", "has to be 1 to 64 of `A-Za-z0-9._-`"));
        }
        let Some(text) = &self.expires_in else { return Ok(None) };
        let span = runtime::parse_duration(text)
            .map_err(|error| Problem::invalid("expires_in", error.to_string()))?;
        let (least, most) =
            (std::time::Duration::from_secs(60), std::time::Duration::from_secs(87_600 * 3600));
        if !(least..=most).contains(&span) {
            return Err(Problem::invalid("expires_in", "has to be between `1m` and `87600h`"));
        }
        let end = jiff::SignedDuration::try_from(span).ok().and_then(|span| now.checked_add(span).ok());
        end.map(Some).ok_or_else(|| Problem::invalid("expires_in", "ends after the last time that there is"))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn now() -> Timestamp {
        "2026-01-01T00:00:00Z".parse().unwrap()
    }

    #[test]
    fn a_token_is_known_by_its_hash_alone() {
        let (kept, secret) = Kept::generate("ci", Role::Operator, "ada", now(), None).unwrap();
        let (other, _) = Kept::generate("ci", Role::Operator, "ada", now(), None).unwrap();
        assert_eq!(id_of(secret.expose()), Some(kept.token.id.as_str()));
        assert!(kept.is(secret.expose()) && !other.is(secret.expose()));
        let file = serde_json::to_string(&kept).unwrap();
        assert!(!file.contains(&secret.expose()[PREFIX.len() + ID_LEN..]), "{file}");
        assert_eq!(serde_json::from_str::<Kept>(&file).unwrap(), kept);
        assert!(!format!("{kept:?} {secret:?}").contains(&secret.expose()[30..]));
    }

    #[test]
    fn what_is_asked_for_is_checked() {
        let ask = |name: &str, expires_in: Option<&str>| {
            let expires_in = expires_in.map(str::to_owned);
            TokenRequest { name: name.to_owned(), role: Role::Viewer, expires_in }.check(now())
        };
        assert_eq!(ask("a.b_C-1", None).unwrap(), None);
        assert_eq!(ask("a", Some("24h")).unwrap().unwrap().to_string(), "2026-01-02T00:00:00Z");
        for name in ["", "a b", "ä", "a/b", "a\n", &"a".repeat(65)] {
            assert_eq!(ask(name, None).unwrap_err().field.as_deref(), Some("name"), "{name:?}");
        }
        for span in ["", "soon", "59s", "0s", "87601h", "-1h", "99999999999999999999h"] {
            let problem = ask("a", Some(span)).unwrap_err();
            assert_eq!(problem.field.as_deref(), Some("expires_in"), "{span:?}");
        }
    }

    proptest! {
        /// Whatever is sent: no panic, and only what is written like a token is looked up.
        #[test]
        fn any_text_is_read_or_is_not(text in "\\PC{0,90}", cut in 0_usize..67, with in "\\PC") {
            let _ = id_of(&text);
            let (kept, secret) = Kept::generate("ci", Role::Viewer, "x", now(), None).unwrap();
            let mut changed: Vec<char> = secret.expose().chars().collect();
            let before = changed.clone();
            changed.splice(cut..=cut, with.chars());
            let changed_text: String = changed.iter().collect();
            prop_assert_eq!(kept.is(&changed_text), changed == before);
            let short: String = before[..cut].iter().collect();
            prop_assert_eq!(id_of(&short), None);
        }
    }
}
