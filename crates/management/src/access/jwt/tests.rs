use std::io::{Read, Write};
use std::net::TcpListener;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use aws_lc_rs::encoding::AsDer as _;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::{EncodingKey, Header, encode};
use proptest::prelude::*;
use serde_json::json;

use super::*;

const SECRET: &[u8] = b"a secret of thirty-two bytes, or more";
const NOW: i64 = 1_800_000_000;

fn now() -> Timestamp {
    Timestamp::from_second(NOW).unwrap()
}

fn config() -> JwtConfig {
    serde_json::from_value(json!({"issuer": "https://issuer.example", "audience": ["gantry", "other"]}))
        .unwrap()
}

/// Takes what is signed with [`SECRET`].
fn verifier(change: impl FnOnce(&mut JwtConfig)) -> JwtVerifier {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("secret");
    std::fs::write(&path, SECRET).unwrap();
    let mut config = JwtConfig { secret_file: Some(path), ..config() };
    change(&mut config);
    JwtVerifier::new(&config).unwrap()
}

fn claims() -> Value {
    json!({"iss": "https://issuer.example", "aud": "gantry", "sub": "ada", "exp": NOW + 60, "role": "operator"})
}

fn with(key: &str, value: Value) -> Value {
    let mut claims = claims();
    claims[key] = value;
    claims
}

fn without(key: &str) -> Value {
    let mut claims = claims();
    claims.as_object_mut().unwrap().remove(key);
    claims
}

fn sign(claims: &Value) -> String {
    encode(&Header::default(), claims, &EncodingKey::from_secret(SECRET)).unwrap()
}

#[tokio::test]
async fn the_issuers_token_for_this_audience_holds_in_its_time() {
    let verifier = verifier(|_| ());
    let verified = verifier.verify(&sign(&claims()), now()).await;
    assert_eq!(verified, Ok(("ada".to_owned(), Role::Operator)));
    for (claims, why) in [
        (with("aud", json!(["x", "other"])), None),
        (with("exp", json!(NOW - 29)), None),
        (with("exp", json!(NOW as f64 + 0.5)), None),
        (with("nbf", json!(NOW + 30)), None),
        (with("exp", json!(NOW - 30)), Some(Rejected::Expired)),
        (with("exp", json!("soon")), Some(Rejected::Invalid("missing claim of a jwt"))),
        (with("exp", json!(-1)), Some(Rejected::Invalid("missing claim of a jwt"))),
        (without("exp"), Some(Rejected::Invalid("missing claim of a jwt"))),
        (with("nbf", json!(NOW + 31)), Some(Rejected::Invalid("jwt that does not hold yet"))),
        (with("nbf", json!("later")), Some(Rejected::Invalid("jwt that does not hold yet"))),
        (with("aud", json!("x")), Some(Rejected::Invalid("wrong audience of a jwt"))),
        (with("aud", json!(["x"])), Some(Rejected::Invalid("wrong audience of a jwt"))),
        (without("aud"), Some(Rejected::Invalid("missing claim of a jwt"))),
        (with("iss", json!("https://issuer.example.evil")), Some(Rejected::Invalid("wrong issuer of a jwt"))),
        (without("iss"), Some(Rejected::Invalid("missing claim of a jwt"))),
        (without("sub"), Some(Rejected::Invalid("missing claim of a jwt"))),
        (with("sub", json!("")), Some(Rejected::Invalid("no subject in a jwt"))),
        (with("sub", json!("a\nb")), Some(Rejected::Invalid("no subject in a jwt"))),
        (with("sub", json!("a".repeat(257))), Some(Rejected::Invalid("no subject in a jwt"))),
        (without("role"), Some(Rejected::NoRole)),
        (with("role", json!("king")), Some(Rejected::NoRole)),
        (with("role", json!(3)), Some(Rejected::NoRole)),
    ] {
        let verified = verifier.verify(&sign(&claims), now()).await;
        assert_eq!(verified.err(), why, "{claims}");
    }
}

#[tokio::test]
async fn a_forged_token_does_not_hold() {
    let verifier = verifier(|_| ());
    let part = |value: Value| URL_SAFE_NO_PAD.encode(value.to_string());
    let (head, body) = (part(json!({"alg": "HS256", "typ": "JWT"})), part(claims()));
    let good = sign(&claims());
    let signature = good.rsplit('.').next().unwrap();
    for forged in [
        format!("{}.{body}.", part(json!({"alg": "none"}))),
        format!("{}.{body}.{signature}", part(json!({"alg": "none"}))),
        format!("{}.{body}.{signature}", part(json!({"alg": "NONE"}))),
        format!("{}.{body}.{signature}", part(json!({"alg": "HS384"}))),
        format!("{}.{body}.{signature}", part(json!({"alg": "RS256"}))),
        format!("{head}.{}.{signature}", part(with("role", json!("admin")))),
        format!("{head}.{body}."),
        format!("{head}.{body}"),
        format!("{good}."),
        format!("{good}.{signature}"),
        encode(
            &Header::default(),
            &claims(),
            &EncodingKey::from_secret(b"another secret of 32 bytes or more"),
        )
        .unwrap(),
        encode(
            &Header { crit: Some(vec!["b64".to_owned()]), ..Header::default() },
            &claims(),
            &EncodingKey::from_secret(SECRET),
        )
        .unwrap(),
        encode(&Header::new(Algorithm::HS512), &claims(), &EncodingKey::from_secret(SECRET)).unwrap(),
        String::new(),
        "..".to_owned(),
    ] {
        let verified = verifier.verify(&forged, now()).await;
        assert!(matches!(verified, Err(Rejected::Invalid(_))), "{forged}: {verified:?}");
    }
}

#[tokio::test]
async fn roles_come_from_the_claim_that_the_configuration_names() {
    let map = || [("ops".to_owned(), Role::Operator), ("root".to_owned(), Role::Admin)].into();
    for (claim, key, value, role) in [
        ("role", "role", json!(["viewer", "operator"]), Some(Role::Operator)),
        ("groups", "groups", json!(["x", "root", "ops"]), Some(Role::Admin)),
        ("groups", "groups", json!("ops"), Some(Role::Operator)),
        ("groups", "groups", json!("admin"), None),
        ("realm.roles", "realm", json!({"roles": ["ops"]}), Some(Role::Operator)),
        ("realm.roles", "realm", json!("ops"), None),
        ("https://example.com/role", "https://example.com/role", json!("ops"), Some(Role::Operator)),
    ] {
        let verifier = verifier(|config| {
            config.role_claim = claim.to_owned();
            config.roles = if claim == "role" { Default::default() } else { map() };
        });
        let mut claims = without("role");
        claims[key] = value;
        let verified = verifier.verify(&sign(&claims), now()).await;
        assert_eq!(verified.ok().map(|(_, role)| role), role, "{claim}: {claims}");
    }
}

#[test]
fn keys_are_read_by_what_they_are_for() {
    let read =
        |keys: Value, secrets: bool| keys::read_set(json!({ "keys": keys }).to_string().as_bytes(), secrets);
    let ec = || ec_key().1;
    assert_eq!(read(json!([ec()]), false).unwrap().len(), 1);
    let oct = json!({"kty": "oct", "k": URL_SAFE_NO_PAD.encode(SECRET)});
    assert_eq!(read(json!([oct]), true).unwrap().len(), 1);
    assert!(read(json!([oct]), false).is_err(), "a secret that everybody can fetch");
    assert!(read(json!([{"kty": "oct", "k": "c2hvcnQ"}]), true).is_err(), "a short secret");
    let mut encryption = ec();
    encryption["use"] = json!("enc");
    let mut other = ec();
    other["alg"] = json!("ES384");
    for none in [json!([]), json!([encryption]), json!([other]), json!([{"kty": "??"}]), json!([3])] {
        assert!(read(none.clone(), true).is_err(), "{none}");
    }
    assert_eq!(read(json!([{"kty": "??"}, ec(), 3]), true).unwrap().len(), 1);
    for text in ["", "{", "[]", "{\"keys\": 3}", "\u{ff}"] {
        assert!(keys::read_set(text.as_bytes(), true).is_err(), "{text}");
    }
    let many = serde_json::Value::Array((0..100).map(|_| ec()).collect());
    assert_eq!(read(many, false).unwrap().len(), 64);
}

/// A key to sign with, and the key set's entry that checks it.
fn ec_key() -> (EncodingKey, Value) {
    let algorithm = &aws_lc_rs::signature::ECDSA_P256_SHA256_FIXED_SIGNING;
    let pair = aws_lc_rs::signature::EcdsaKeyPair::generate(algorithm).unwrap();
    let key = EncodingKey::from_ec_der(pair.to_pkcs8v1().unwrap().as_ref());
    let jwk = jsonwebtoken::jwk::Jwk::from_encoding_key(&key, Algorithm::ES256).unwrap();
    (key, serde_json::to_value(jwk).unwrap())
}

fn rsa_key() -> (EncodingKey, Value) {
    let pair = aws_lc_rs::rsa::KeyPair::generate(aws_lc_rs::rsa::KeySize::Rsa2048).unwrap();
    let pkcs8: aws_lc_rs::encoding::Pkcs8V1Der<'_> = pair.as_der().unwrap();
    // The library takes PKCS #1, which PKCS #8 has after 26 bytes for a key of this size (RFC 5958).
    let key = EncodingKey::from_rsa_der(&pkcs8.as_ref()[26..]);
    let jwk = jsonwebtoken::jwk::Jwk::from_encoding_key(&key, Algorithm::RS256).unwrap();
    (key, serde_json::to_value(jwk).unwrap())
}

fn named(mut key: Value, id: &str) -> Value {
    key["kid"] = json!(id);
    key
}

fn sign_with(algorithm: Algorithm, id: Option<&str>, key: &EncodingKey) -> String {
    let header = Header { kid: id.map(str::to_owned), ..Header::new(algorithm) };
    encode(&header, &claims(), key).unwrap()
}

/// An issuer on loopback that answers what it is told to, and counts who asks.
struct Issuer {
    url: String,
    answer: Arc<Mutex<Option<String>>>,
    asked: Arc<AtomicUsize>,
}

impl Issuer {
    fn start(keys: &[Value]) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}/keys", listener.local_addr().unwrap());
        let answer = Arc::new(Mutex::new(Some(json!({ "keys": keys }).to_string())));
        let asked = Arc::new(AtomicUsize::new(0));
        let (told, counted) = (answer.clone(), asked.clone());
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let Ok(mut stream) = stream else { return };
                let _ = stream.read(&mut [0; 4096]);
                counted.fetch_add(1, Ordering::SeqCst);
                let text = match told.lock().unwrap().as_deref() {
                    Some(body) => format!(
                        "HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: {}\r\n\r\n{body}",
                        body.len()
                    ),
                    None => "HTTP/1.1 500 Oops\r\nconnection: close\r\ncontent-length: 0\r\n\r\n".to_owned(),
                };
                let _ = stream.write_all(text.as_bytes());
            }
        });
        Self { url, answer, asked }
    }

    fn answers(&self, keys: Option<&[Value]>) {
        *self.answer.lock().unwrap() = keys.map(|keys| json!({ "keys": keys }).to_string());
    }

    fn asked(&self) -> usize {
        self.asked.load(Ordering::SeqCst)
    }

    fn verifier(&self) -> JwtVerifier {
        JwtVerifier::new(&JwtConfig { jwks_url: Some(self.url.clone()), ..config() }).unwrap()
    }
}

#[tokio::test]
async fn keys_of_an_issuer_rotate() {
    let (ec, ec_public) = ec_key();
    let (rsa, rsa_public) = rsa_key();
    let issuer = Issuer::start(&[named(ec_public.clone(), "one")]);
    let verifier = issuer.verifier();
    let old = sign_with(Algorithm::ES256, Some("one"), &ec);
    assert!(verifier.verify(&old, now()).await.is_ok());
    assert!(verifier.verify(&old, now()).await.is_ok());
    assert_eq!(issuer.asked(), 1, "kept");

    // A key that is not known has the set asked for again, but not over and over.
    let new = sign_with(Algorithm::RS256, Some("two"), &rsa);
    issuer.answers(Some(&[named(ec_public, "one"), named(rsa_public.clone(), "two")]));
    assert!(verifier.verify(&new, now()).await.is_err(), "asked just now");
    tokio::time::pause();
    tokio::time::advance(std::time::Duration::from_secs(5)).await;
    tokio::time::resume();
    assert!(verifier.verify(&new, now()).await.is_ok());
    assert!(verifier.verify(&old, now()).await.is_ok());
    for id in 0..20 {
        let unknown = sign_with(Algorithm::RS256, Some(&id.to_string()), &rsa);
        assert!(verifier.verify(&unknown, now()).await.is_err());
    }
    assert_eq!(issuer.asked(), 2);

    // A key that was withdrawn does not hold any more once the set is asked for again.
    issuer.answers(Some(&[named(rsa_public, "two")]));
    tokio::time::pause();
    tokio::time::advance(std::time::Duration::from_secs(300)).await;
    tokio::time::resume();
    assert!(verifier.verify(&old, now()).await.is_err());
    assert!(verifier.verify(&new, now()).await.is_ok());

    // An issuer that is away for a while changes nothing.
    issuer.answers(None);
    tokio::time::pause();
    tokio::time::advance(std::time::Duration::from_secs(300)).await;
    tokio::time::resume();
    assert!(verifier.verify(&new, now()).await.is_ok());
    assert_eq!(issuer.asked(), 4);
}

#[tokio::test]
async fn an_issuer_that_has_never_answered_is_waited_for() {
    let (ec, ec_public) = ec_key();
    let issuer = Issuer::start(&[]);
    issuer.answers(None);
    let verifier = issuer.verifier();
    let token = sign_with(Algorithm::ES256, None, &ec);
    assert!(matches!(verifier.verify(&token, now()).await, Err(Rejected::Unknown(_))));
    issuer.answers(Some(&[ec_public]));
    tokio::time::pause();
    tokio::time::advance(std::time::Duration::from_secs(5)).await;
    tokio::time::resume();
    assert!(verifier.verify(&token, now()).await.is_ok());
}

/// A public key is no secret: what is signed with its bytes by HS256 does not hold.
#[tokio::test]
async fn a_public_key_is_not_taken_for_a_secret() {
    let (_, rsa_public) = rsa_key();
    let modulus = rsa_public["n"].as_str().unwrap().to_owned();
    let issuer = Issuer::start(&[named(rsa_public, "one")]);
    let verifier = issuer.verifier();
    for secret in [modulus.as_bytes().to_vec(), URL_SAFE_NO_PAD.decode(&modulus).unwrap()] {
        let forged = sign_with(Algorithm::HS256, Some("one"), &EncodingKey::from_secret(&secret));
        assert!(matches!(verifier.verify(&forged, now()).await, Err(Rejected::Invalid(_))));
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    /// Whatever is sent as a token: no panic, and only what was signed holds.
    #[test]
    fn any_text_is_refused_and_any_changed_byte_too(text in "[A-Za-z0-9_.=-]{0,200}", at in 0_usize..1000, to in "[A-Za-z0-9_.-]") {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let verifier = verifier(|_| ());
        let verify = |text: &str| runtime.block_on(verifier.verify(text, now()));
        prop_assert!(verify(&text).is_err());
        let good = sign(&claims());
        let at = at % good.len();
        let mut changed = good.clone();
        changed.replace_range(at..=at, &to);
        prop_assert_eq!(verify(&changed).is_ok(), changed == good, "{}", changed);
    }
}
