//! JSON Web Tokens (RFC 7519) of one issuer.

mod keys;

use jsonwebtoken::{Algorithm, Validation, decode, decode_header};
use runtime::Timestamp;
use serde_json::{Map, Value};

use self::keys::{Key, Keys};
use super::Rejected;
use super::config::{InvalidAccess, JwtConfig};
use crate::Role;

/// How long a subject may be, in characters.
const SUBJECT_LEN_MAX: usize = 256;

/// Checks tokens against what the configuration says of them.
#[derive(Debug)]
pub(crate) struct JwtVerifier {
    config: JwtConfig,
    keys: Keys,
}

impl JwtVerifier {
    /// Reads the keys that are in a file. Those of a URL are fetched when the first token comes.
    pub(crate) fn new(config: &JwtConfig) -> Result<Self, InvalidAccess> {
        Ok(Self { keys: Keys::of(config)?, config: config.clone() })
    }

    /// The subject of a token and its role here.
    pub(crate) async fn verify(&self, text: &str, now: Timestamp) -> Result<(String, Role), Rejected> {
        let invalid = Rejected::Invalid;
        // Also refuses `none` and every other algorithm that the library does not know.
        let header = decode_header(text).map_err(|_| invalid("unreadable header of a jwt"))?;
        if !matches!(header.alg, Algorithm::HS256 | Algorithm::RS256 | Algorithm::ES256) {
            return Err(invalid("algorithm of a jwt that is not taken"));
        }
        // Extensions that have to be understood (RFC 7515, 4.1.11); none is.
        if header.crit.is_some() {
            return Err(invalid("critical extension of a jwt"));
        }
        let keys = self.keys.matching(header.alg, header.kid.as_deref()).await?;
        let claims = self.claims(text, header.alg, &keys)?;
        self.check_times(&claims, now)?;
        let subject = claims.get("sub").and_then(Value::as_str).unwrap_or_default();
        let is_subject = !subject.is_empty()
            && subject.chars().count() <= SUBJECT_LEN_MAX
            && !subject.chars().any(char::is_control);
        if !is_subject {
            return Err(invalid("no subject in a jwt"));
        }
        Ok((subject.to_owned(), self.role(&claims).ok_or(Rejected::NoRole)?))
    }

    /// The claims, if one of the keys has signed them, for this audience and by this issuer.
    fn claims(&self, text: &str, algorithm: Algorithm, keys: &[Key]) -> Result<Map<String, Value>, Rejected> {
        let mut validation = Validation::new(algorithm);
        validation.set_issuer(&[&self.config.issuer]);
        validation.set_audience(&self.config.audience);
        validation.set_required_spec_claims(&["exp", "iss", "aud", "sub"]);
        // By the host's clock, below.
        validation.validate_exp = false;
        use jsonwebtoken::errors::ErrorKind as K;
        let mut rejected = Rejected::Invalid("key of a jwt that is not known");
        for key in keys {
            match decode::<Map<String, Value>>(text, &key.decoding, &validation) {
                Ok(token) => return Ok(token.claims),
                Err(error) => {
                    rejected = Rejected::Invalid(match error.kind() {
                        K::InvalidSignature => "wrong signature of a jwt",
                        K::InvalidIssuer => "wrong issuer of a jwt",
                        K::InvalidAudience => "wrong audience of a jwt",
                        K::MissingRequiredClaim(_) => "missing claim of a jwt",
                        _ => "unreadable jwt",
                    });
                }
            }
        }
        Err(rejected)
    }

    fn check_times(&self, claims: &Map<String, Value>, now: Timestamp) -> Result<(), Rejected> {
        let now = now.as_second() as f64;
        let leeway = self.config.leeway.as_secs_f64();
        let time = |name: &str| claims.get(name).map(|value| value.as_f64().filter(|time| time.is_finite()));
        match time("exp") {
            Some(Some(end)) if end + leeway > now => {}
            Some(Some(_)) => return Err(Rejected::Expired),
            _ => return Err(Rejected::Invalid("unreadable expiry of a jwt")),
        }
        match time("nbf") {
            None => Ok(()),
            Some(Some(begin)) if begin <= now + leeway => Ok(()),
            Some(_) => Err(Rejected::Invalid("jwt that does not hold yet")),
        }
    }

    /// The highest role that the claim gives.
    fn role(&self, claims: &Map<String, Value>) -> Option<Role> {
        let mut path = self.config.role_claim.split('.');
        // A claim may have dots in its name: `https://example.com/role`.
        let value = claims.get(&self.config.role_claim).or_else(|| {
            let first = claims.get(path.next()?)?;
            path.try_fold(first, |value, key| value.get(key))
        })?;
        let role_of = |name: &str| {
            if self.config.roles.is_empty() {
                [Role::Viewer, Role::Operator, Role::Admin].into_iter().find(|role| role.as_str() == name)
            } else {
                self.config.roles.get(name).copied()
            }
        };
        match value {
            Value::String(name) => role_of(name),
            Value::Array(names) => names.iter().filter_map(Value::as_str).filter_map(role_of).max(),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests;
