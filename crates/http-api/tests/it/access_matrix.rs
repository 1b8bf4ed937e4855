//! Who may call what: every route of the API and of plugins, with every kind of credentials, from the table
//! that the API itself goes by.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use http::{Method, Request};
use http_api::{Api, HttpConfig};
use http_body_util::Full;
use jiff::SignedDuration;
use jsonwebtoken::{Algorithm, EncodingKey, Header, encode};
use management::{
    AccessConfig, Authenticator, JwtConfig, Management, ManagementBuilder, Permission, Role, TokenFile,
    TokenRequest,
};
use plugin_core::{Access, Endpoint, Reply, RouteRequest};
use runtime::VirtualClock;
use serde_json::{Value, json};

use crate::client::send;
use crate::document::DOCUMENT;
use crate::plugin_routes::mounts_of;

const SECRET: &[u8] = b"the issuer's secret of 32 bytes or more";
const NOW: i64 = 1_800_000_000;
/// So late that all the delays of failures end before.
const END: i64 = NOW + 100_000_000;

/// An API that asks for credentials, and credentials of every kind.
pub(crate) struct Gate {
    pub(crate) api: Api,
    pub(crate) admin: String,
    credentials: Vec<Credentials>,
}

struct Credentials {
    what: String,
    /// What stands in the header.
    shown: Option<String>,
    /// What they give.
    role: Option<Role>,
}

/// The credentials, and a builder of what asks for them.
fn credentials() -> (ManagementBuilder, Vec<Credentials>) {
    let clock = VirtualClock::starting_at(jiff::Timestamp::from_second(NOW).unwrap());
    let tokens = TokenFile::in_memory(clock.clone());
    let make = |name: &str, role: Role, expires_in: Option<&str>| {
        let expires_in = expires_in.map(str::to_owned);
        tokens.create_as(&TokenRequest { name: name.to_owned(), role, expires_in }, "test").unwrap()
    };
    let mut all = vec![Credentials { what: "no credential".to_owned(), shown: None, role: None }];
    let mut add = |what: &str, text: String, role: Option<Role>| {
        all.push(Credentials { what: what.to_owned(), shown: Some(format!("Bearer {text}")), role });
    };
    for role in [Role::Viewer, Role::Operator, Role::Admin] {
        add(role.as_str(), make(role.as_str(), role, None).secret.expose().to_owned(), Some(role));
    }
    let expired = make("expired", Role::Admin, Some("1m"));
    let revoked = make("revoked", Role::Admin, None);
    tokens.revoke(&revoked.token.id).unwrap().unwrap();
    let forged = revoked.token.id.clone();
    let other = make("other", Role::Admin, None);
    let mut swapped = other.secret.expose().to_owned();
    swapped.replace_range(24.., &revoked.secret.expose()[24..]);
    add("expired token", expired.secret.expose().to_owned(), None);
    add("revoked token", revoked.secret.expose().to_owned(), None);
    add("token with another's secret", swapped, None);
    add("made up token", format!("gantry_{forged}_{}", "a".repeat(43)), None);

    let claims = |role: &str| json!({"iss": "https://issuer.example", "aud": "gantry", "sub": "ada", "exp": END, "role": role});
    let with = |key: &str, value: Value| {
        let mut claims = claims("admin");
        claims[key] = value;
        claims
    };
    let sign = |claims: &Value, secret: &[u8]| {
        encode(&Header::default(), claims, &EncodingKey::from_secret(secret)).unwrap()
    };
    for role in [Role::Viewer, Role::Operator, Role::Admin] {
        add(&format!("jwt of a {role}"), sign(&claims(role.as_str()), SECRET), Some(role));
    }
    let part = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
    let none = format!("{}.{}.", part(&json!({"alg": "none", "typ": "JWT"})), part(&claims("admin")));
    add("jwt, alg none", none, None);
    add("jwt, wrong key", sign(&claims("admin"), b"somebody else's secret of 32 bytes!!"), None);
    let hs512 = encode(&Header::new(Algorithm::HS512), &claims("admin"), &EncodingKey::from_secret(SECRET));
    add("jwt, other algorithm", hs512.unwrap(), None);
    add("jwt, wrong audience", sign(&with("aud", json!("other")), SECRET), None);
    add("jwt, wrong issuer", sign(&with("iss", json!("https://evil.example")), SECRET), None);
    add("jwt, expired", sign(&with("exp", json!(NOW - 600)), SECRET), None);
    add("jwt, not yet", sign(&with("nbf", json!(END - 60)), SECRET), None);

    let folder = tempfile::tempdir().unwrap();
    let secret_file = folder.path().join("secret");
    std::fs::write(&secret_file, SECRET).unwrap();
    let jwt: JwtConfig = serde_json::from_value(
        json!({"issuer": "https://issuer.example", "audience": ["gantry"], "secret_file": secret_file}),
    )
    .unwrap();
    let config = AccessConfig { required: true, jwt: Some(jwt) };
    clock.jump(SignedDuration::from_secs(90));
    let access = Authenticator::with_tokens(&config, tokens, clock.clone()).unwrap();
    (Management::builder().clock(clock).access(access), all)
}

impl Gate {
    pub(crate) fn new() -> Self {
        let (builder, credentials) = credentials();
        let mut gate =
            Self { api: Api::new(builder.build(), HttpConfig::default()), admin: String::new(), credentials };
        gate.admin = gate.token("admin");
        gate
    }

    /// The token of these credentials.
    pub(crate) fn token(&self, what: &str) -> String {
        let found = self.credentials.iter().find(|one| one.what == what).unwrap();
        found.shown.as_deref().unwrap().trim_start_matches("Bearer ").to_owned()
    }
}

/// What is answered to whom: 401 to those who show nothing that holds, 403 to those below the role, and
/// whatever the route answers to the others.
async fn check(api: &Api, method: Method, path: &str, role: Option<Role>, all: &[Credentials]) {
    for credentials in all {
        let mut request = Request::builder().method(&method).uri(path);
        if let Some(shown) = &credentials.shown {
            request = request.header("authorization", shown);
        }
        let answered = send(api, request.body(Full::default()).unwrap()).await.status.as_u16();
        let refused = match (role, credentials.role) {
            (None, _) => None,
            (Some(_), None) => Some(401),
            (Some(needed), Some(own)) => (own < needed).then_some(403),
        };
        let told = format!("{method} {path} for {}: {answered}", credentials.what);
        match refused {
            Some(status) => assert_eq!(answered, status, "{told}"),
            None => assert!(!matches!(answered, 401 | 403), "{told}"),
        }
    }
}

fn role_named(name: &Value) -> Role {
    serde_json::from_value(name.clone()).unwrap()
}

#[tokio::test(start_paused = true)]
async fn every_route_with_every_kind_of_credentials() {
    let gate = Gate::new();
    let mut checked = 0;
    let mut public = Vec::new();
    for (template, item) in DOCUMENT.json["paths"].as_object().unwrap() {
        let path = template.replace(['{', '}'], "");
        for (method, operation) in item.as_object().unwrap() {
            let security = operation["security"].as_array().unwrap_or_else(|| panic!("{method} {template}"));
            let role = match security.as_slice() {
                [] => None,
                [one] => Some(role_named(&one["bearer"][0])),
                more => panic!("{method} {template}: {more:?}"),
            };
            // What the document says is what the table says.
            let permission = operation["x-permission"].as_str();
            let permission = permission.map(|name| Permission::named(name).unwrap());
            assert_eq!(permission.map(Permission::role), role, "{method} {template}");
            let method: Method = method.to_uppercase().parse().unwrap();
            if role.is_none() {
                public.push(format!("{method} {template}"));
            }
            if method == Method::GET {
                check(&gate.api, Method::HEAD, &path, role, &gate.credentials).await;
            }
            check(&gate.api, method, &path, role, &gate.credentials).await;
            checked += 1;
        }
    }
    assert!(checked > 60, "{checked}");
    assert_eq!(public, ["GET /", "GET /docs", "GET /health/live", "GET /health/ready", "GET /openapi.json"]);
}

/// Each permission of the table but those that plugins' own operations have is some route's.
#[test]
fn every_permission_guards_a_route() {
    let text = DOCUMENT.json["paths"].to_string();
    for permission in Permission::ALL {
        assert!(text.contains(&format!("\"x-permission\":\"{permission}\"")), "{permission}");
    }
}

#[tokio::test(start_paused = true)]
async fn every_kind_of_plugins_route_with_every_kind_of_credentials() {
    let (builder, credentials) = credentials();
    let mounts = mounts_of(HttpConfig::default(), builder);
    let kinds = [
        ("/own/public", Access::Public, None),
        ("/own/viewer", Access::Viewer, Some(Role::Viewer)),
        ("/own/operator", Access::Operator, Some(Role::Operator)),
        ("/own/admin", Access::Admin, Some(Role::Admin)),
        // Below a path of the API.
        ("/plugins/own/extra", Access::Operator, Some(Role::Operator)),
    ];
    let _mounted = mounts
        .mount("own", |ctx| {
            for (path, access, _) in kinds {
                for method in [Method::GET, Method::POST] {
                    let endpoint = Endpoint::new(method, path).access(access);
                    ctx.route(endpoint, |_: RouteRequest| async { Ok(Reply::text("in")) }).unwrap();
                }
            }
        })
        .await;
    for (path, _, role) in kinds {
        for method in [Method::GET, Method::POST] {
            check(&mounts.api, method, path, role, &credentials).await;
        }
    }
    // What is not there tells nobody anything.
    check(&mounts.api, Method::GET, "/own/absent", None, &credentials).await;
    check(&mounts.api, Method::GET, "/scheduler/absent", None, &credentials).await;
    check(&mounts.api, Method::PATCH, "/plugins/x", None, &credentials).await;
}
