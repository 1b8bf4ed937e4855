//! The keys of an issuer, and how they come here.

use std::path::Path;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use jsonwebtoken::jwk::{AlgorithmParameters, EllipticCurve, Jwk, KeyAlgorithm, PublicKeyUse};
use jsonwebtoken::{Algorithm, DecodingKey};
use serde::Deserialize;
use serde_json::Value;
use tokio::sync::Mutex;
use tokio::time::Instant;

use super::super::Rejected;
use super::super::config::{InvalidAccess, JwtConfig};

/// How long a secret has to be, in bytes: as long as what HS256 makes of it (RFC 7518, 3.2).
const SECRET_BYTES_MIN: usize = 32;
/// How large a key set may be.
const SET_BYTES_MAX: usize = 256 * 1024;
/// How many of its keys are taken.
const KEYS_MAX: usize = 64;
/// How long an issuer may take to answer.
const FETCH_WITHIN: Duration = Duration::from_secs(5);
/// How long to leave the issuer alone after it was asked, whatever tokens of unknown keys come.
const PAUSE: Duration = Duration::from_secs(5);

/// A key that signatures are checked with, by the one algorithm that it is for.
#[derive(Clone)]
pub(super) struct Key {
    id: Option<String>,
    algorithm: Algorithm,
    pub(super) decoding: DecodingKey,
}

impl std::fmt::Debug for Key {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Key")
            .field("id", &self.id)
            .field("algorithm", &self.algorithm)
            .finish_non_exhaustive()
    }
}

/// The keys that are known, and where there may be newer ones.
#[derive(Debug)]
pub(super) struct Keys {
    known: RwLock<Arc<Known>>,
    source: Option<Source>,
    refresh: Duration,
    /// One fetch at a time; the others wait for it.
    fetching: Mutex<()>,
}

#[derive(Debug, Default)]
struct Known {
    keys: Vec<Key>,
    /// Whether there has been a key set at all.
    is_there: bool,
    /// When there was the last attempt to get them.
    asked: Option<Instant>,
}

#[derive(Debug)]
enum Source {
    File(std::path::PathBuf),
    Url { url: String, client: reqwest::Client },
}

impl Keys {
    pub(super) fn of(config: &JwtConfig) -> Result<Self, InvalidAccess> {
        let mut known = Known { is_there: true, asked: Some(Instant::now()), ..Known::default() };
        let source = if let Some(path) = &config.secret_file {
            known.keys.push(secret(path)?);
            None
        } else if let Some(path) = &config.jwks_file {
            let refused = |detail| InvalidAccess { key: "jwt.jwks_file", detail };
            known.keys = read_file(path).map_err(refused)?;
            Some(Source::File(path.clone()))
        } else {
            known = Known::default();
            let url = config.jwks_url.clone().unwrap_or_default();
            let refused = |error: &dyn std::error::Error| InvalidAccess {
                key: "jwt.jwks_url",
                detail: error.to_string(),
            };
            // An issuer that sends its clients elsewhere is one that somebody else may speak for.
            let client = reqwest::Client::builder()
                .redirect(reqwest::redirect::Policy::none())
                .timeout(FETCH_WITHIN)
                .build()
                .map_err(|error| refused(&error))?;
            Some(Source::Url { url, client })
        };
        Ok(Self {
            known: RwLock::new(Arc::new(known)),
            source,
            refresh: config.jwks_refresh,
            fetching: Mutex::new(()),
        })
    }

    /// Those that a token of this header may be signed with. Where none is known they are asked for, at most
    /// once in a while.
    pub(super) async fn matching(
        &self,
        algorithm: Algorithm,
        id: Option<&str>,
    ) -> Result<Vec<Key>, Rejected> {
        let mut known = self.known();
        let mut found = known.matching(algorithm, id);
        let is_due = |known: &Known| {
            let pause = if known.matching(algorithm, id).is_empty() { PAUSE } else { self.refresh };
            known.asked.is_none_or(|asked| asked.elapsed() >= pause)
        };
        if let Some(source) = &self.source
            && is_due(&known)
        {
            let _one = self.fetching.lock().await;
            // Whoever was before may have asked by now.
            if is_due(&self.known()) {
                self.fetch(source).await;
            }
            known = self.known();
            found = known.matching(algorithm, id);
        }
        if !known.is_there {
            return Err(Rejected::Unknown("the keys of the issuer could not be fetched yet"));
        }
        if found.is_empty() { Err(Rejected::Invalid("key of a jwt that is not known")) } else { Ok(found) }
    }

    fn known(&self) -> Arc<Known> {
        Arc::clone(&self.known.read().unwrap_or_else(PoisonError::into_inner))
    }

    async fn fetch(&self, source: &Source) {
        let fetched = match source {
            Source::File(path) => read_file(path),
            Source::Url { url, client } => fetch(client, url).await,
        };
        let before = self.known();
        let asked = Some(Instant::now());
        let known = match fetched {
            Ok(keys) => {
                tracing::debug!(keys = keys.len(), "keys of the issuer");
                Known { keys, is_there: true, asked }
            }
            // What was known before goes on to hold: an issuer may be away for a while.
            Err(error) => {
                tracing::warn!(error, "keys of the issuer cannot be had");
                Known { keys: before.keys.clone(), is_there: before.is_there, asked }
            }
        };
        *self.known.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(known);
    }
}

impl Known {
    fn matching(&self, algorithm: Algorithm, id: Option<&str>) -> Vec<Key> {
        let fits = |key: &&Key| {
            let is_named = match (id, &key.id) {
                (Some(id), Some(own)) => id == own,
                _ => true,
            };
            key.algorithm == algorithm && is_named
        };
        self.keys.iter().filter(fits).cloned().collect()
    }
}

fn secret(path: &Path) -> Result<Key, InvalidAccess> {
    let refused = |detail: String| InvalidAccess { key: "jwt.secret_file", detail };
    let text = read_bounded(path).map_err(refused)?;
    // An editor ends the last line.
    let secret = text.strip_suffix(b"\n").unwrap_or(&text);
    if secret.len() < SECRET_BYTES_MIN {
        return Err(refused(format!("`{}` has less than {SECRET_BYTES_MIN} bytes", path.display())));
    }
    Ok(Key { id: None, algorithm: Algorithm::HS256, decoding: DecodingKey::from_secret(secret) })
}

fn read_file(path: &Path) -> Result<Vec<Key>, String> {
    read_set(&read_bounded(path)?, true).map_err(|detail| format!("`{}` {detail}", path.display()))
}

fn read_bounded(path: &Path) -> Result<Vec<u8>, String> {
    use std::io::Read as _;
    let refused = |error: std::io::Error| format!("`{}`: {error}", path.display());
    let mut bytes = Vec::new();
    let file = std::fs::File::open(path).map_err(refused)?;
    file.take(SET_BYTES_MAX as u64 + 1).read_to_end(&mut bytes).map_err(refused)?;
    if bytes.len() > SET_BYTES_MAX {
        return Err(format!("`{}` is larger than {SET_BYTES_MAX} bytes", path.display()));
    }
    Ok(bytes)
}

async fn fetch(client: &reqwest::Client, url: &str) -> Result<Vec<Key>, String> {
    let failed = |error: reqwest::Error| error.without_url().to_string();
    let mut answer = client.get(url).send().await.map_err(failed)?;
    if !answer.status().is_success() {
        return Err(format!("answered {}", answer.status()));
    }
    let mut bytes = Vec::new();
    while let Some(chunk) = answer.chunk().await.map_err(failed)? {
        bytes.extend_from_slice(&chunk);
        if bytes.len() > SET_BYTES_MAX {
            return Err(format!("is larger than {SET_BYTES_MAX} bytes"));
        }
    }
    read_set(&bytes, false)
}

/// The keys of a set (RFC 7517) that signatures can be checked with here; others are passed over. Secrets are
/// none for a set that was fetched: whoever can read it could sign.
pub(super) fn read_set(bytes: &[u8], may_have_secrets: bool) -> Result<Vec<Key>, String> {
    #[derive(Deserialize)]
    struct Set {
        keys: Vec<Value>,
    }
    let set: Set = serde_json::from_slice(bytes).map_err(|error| {
        // Without the text, in which there may be secrets.
        format!("is no JSON Web Key Set (line {}, column {})", error.line(), error.column())
    })?;
    let keys: Vec<Key> =
        set.keys.into_iter().filter_map(|key| read_key(key, may_have_secrets)).take(KEYS_MAX).collect();
    if keys.is_empty() { Err("has no key for HS256, RS256 or ES256".to_owned()) } else { Ok(keys) }
}

fn read_key(key: Value, may_be_secret: bool) -> Option<Key> {
    let key: Jwk = serde_json::from_value(key).ok()?;
    if !matches!(key.common.public_key_use, None | Some(PublicKeyUse::Signature)) {
        return None;
    }
    let (algorithm, named) = match &key.algorithm {
        AlgorithmParameters::RSA(_) => (Algorithm::RS256, KeyAlgorithm::RS256),
        AlgorithmParameters::EllipticCurve(params) if params.curve == EllipticCurve::P256 => {
            (Algorithm::ES256, KeyAlgorithm::ES256)
        }
        AlgorithmParameters::OctetKey(_) if may_be_secret => (Algorithm::HS256, KeyAlgorithm::HS256),
        _ => return None,
    };
    if key.common.key_algorithm.is_some_and(|algorithm| algorithm != named) {
        return None;
    }
    let decoding = DecodingKey::from_jwk(&key).ok()?;
    let is_weak = algorithm == Algorithm::HS256
        && decoding.try_get_as_bytes().is_ok_and(|secret| secret.len() < SECRET_BYTES_MIN);
    (!is_weak).then_some(Key { id: key.common.key_id, algorithm, decoding })
}
