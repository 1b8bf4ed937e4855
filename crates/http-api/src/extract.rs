//! What a handler gets out of a request, checked.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use axum::body::Body;
use axum::extract::{FromRequest, FromRequestParts, MatchedPath, Path, Request};
use bytes::Bytes;
use http::request::Parts;
use http::{HeaderMap, header};
use http_body::Body as _;
use http_body_util::{BodyExt, LengthLimitError};
use management::{Caller, Management, PageRequest, Problem, ProblemKind};
use plugin_core::{Route, in_plain_words};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use utoipa::IntoParams;

use crate::direct::{FromRequestLine, RequestLine};
use crate::envelope::Refusal;
use crate::paths::Paths;
use crate::shared::Shared;
use crate::strict::Strict;

/// What is known about a request before it is routed, and what routing finds out.
pub(crate) struct Scope {
    /// Whom the request stands for as long as its credentials have not been looked at.
    stranger: Caller,
    /// Whose credentials it has shown.
    known: OnceLock<Caller>,
    template: OnceLock<Template>,
}

/// The template of the path that was taken.
enum Template {
    /// The number of a documented path.
    Documented(usize),
    /// What belongs to a page.
    Asset(MatchedPath),
    Plugin(Arc<Route>),
}

impl Scope {
    pub(crate) fn new(stranger: Caller) -> Self {
        Self { stranger, known: OnceLock::new(), template: OnceLock::new() }
    }

    /// Who asks.
    pub(crate) fn caller(&self) -> &Caller {
        self.known.get().unwrap_or(&self.stranger)
    }

    /// Looks at the credentials of the request, if it has some. What is public does without.
    pub(crate) async fn authenticate(
        &self,
        management: &Management,
        headers: &HeaderMap,
    ) -> Result<(), Problem> {
        let Some(credentials) = headers.get(header::AUTHORIZATION) else { return Ok(()) };
        // Whoever stands in front may have gone by the other one.
        if headers.get_all(header::AUTHORIZATION).iter().nth(1).is_some() {
            return Err(Problem::malformed("there is more than one `Authorization` header"));
        }
        let Caller { origin, trace, dry_run, .. } = self.stranger;
        // In a box, so that requests without credentials do not carry the room for it.
        let checked = Box::pin(management.authenticate(Some(credentials.as_bytes()), origin, trace)).await?;
        let _ = self.known.set(checked.dry_run(dry_run));
        Ok(())
    }

    /// Says which documented path was taken.
    pub(crate) fn took_path(&self, at: usize) {
        let _ = self.template.set(Template::Documented(at));
    }

    /// Says which route of a plugin's was taken.
    pub(crate) fn took_route(&self, route: &Arc<Route>) {
        let _ = self.template.set(Template::Plugin(Arc::clone(route)));
    }

    /// The template of the path that was taken.
    pub(crate) fn template<'a>(&'a self, paths: &'a Paths) -> Option<&'a str> {
        match self.template.get()? {
            Template::Documented(at) => paths.template(*at),
            Template::Asset(matched) => Some(matched.as_str()),
            Template::Plugin(route) => Some(route.endpoint.path()),
        }
    }
}

/// Who asks, and what answers. Every handler takes it first: it tells the metrics which path was taken.
pub(crate) struct Ctx {
    pub(crate) shared: Arc<Shared>,
    pub(crate) scope: Arc<Scope>,
}

impl Ctx {
    pub(crate) fn management(&self) -> &Management {
        &self.shared.management
    }

    pub(crate) fn caller(&self) -> &Caller {
        self.scope.caller()
    }
}

impl FromRequestParts<Arc<Shared>> for Ctx {
    type Rejection = Refusal;

    async fn from_request_parts(parts: &mut Parts, shared: &Arc<Shared>) -> Result<Self, Refusal> {
        let scope = parts.extensions.get::<Arc<Scope>>().cloned().ok_or_else(Problem::internal)?;
        if scope.template.get().is_none()
            && let Some(matched) = parts.extensions.get::<MatchedPath>()
        {
            let _ = scope.template.set(Template::Asset(matched.clone()));
        }
        Ok(Self { shared: Arc::clone(shared), scope })
    }
}

/// The one parameter of a path, percent-decoded.
pub(crate) struct Name(pub(crate) String);

impl FromRequestParts<Arc<Shared>> for Name {
    type Rejection = Refusal;

    async fn from_request_parts(parts: &mut Parts, shared: &Arc<Shared>) -> Result<Self, Refusal> {
        match Path::<String>::from_request_parts(parts, shared).await {
            Ok(Path(name)) => Ok(Self(name)),
            Err(_) => Err(unreadable_path().into()),
        }
    }
}

impl FromRequestLine for Name {
    fn read(line: RequestLine<'_>) -> Result<Self, Refusal> {
        match percent_encoding::percent_decode_str(line.param).decode_utf8() {
            Ok(name) => Ok(Self(name.into_owned())),
            Err(_) => Err(unreadable_path().into()),
        }
    }
}

fn unreadable_path() -> Problem {
    Problem::malformed("the path cannot be read as UTF-8")
}

/// The query string. Unknown parameters are refused.
pub(crate) struct Query<T>(pub(crate) T);

impl<T: DeserializeOwned> FromRequestParts<Arc<Shared>> for Query<T> {
    type Rejection = Refusal;

    async fn from_request_parts(parts: &mut Parts, _: &Arc<Shared>) -> Result<Self, Refusal> {
        read_query(parts.uri.query().unwrap_or_default()).map(Self).map_err(Refusal::from)
    }
}

impl<T: DeserializeOwned> FromRequestLine for Query<T> {
    fn read(line: RequestLine<'_>) -> Result<Self, Refusal> {
        read_query(line.query).map(Self).map_err(Refusal::from)
    }
}

fn read_query<T: DeserializeOwned>(query: &str) -> Result<T, Problem> {
    let pairs = serde_urlencoded::Deserializer::new(form_urlencoded::parse(query.as_bytes()));
    serde_path_to_error::deserialize(pairs).map_err(|error| {
        let path = error.path().to_string();
        field_problem(&path, &error.into_inner().to_string())
    })
}

/// Which page of a list.
#[derive(Debug, Default, Deserialize, IntoParams)]
#[serde(default, deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct PageQuery {
    /// How many entries at the most.
    #[param(minimum = 1, maximum = 1000, default = 100)]
    pub(crate) limit: Option<u64>,
    /// `next_cursor` of the page before.
    pub(crate) cursor: Option<String>,
}

impl PageQuery {
    pub(crate) fn page(self) -> Result<PageRequest, Refusal> {
        Ok(PageRequest::new(self.limit, self.cursor)?)
    }
}

/// A JSON body that has to be there.
pub(crate) struct Json<T>(pub(crate) T);

impl<T: DeserializeOwned> FromRequest<Arc<Shared>> for Json<T> {
    type Rejection = Refusal;

    async fn from_request(request: Request, shared: &Arc<Shared>) -> Result<Self, Refusal> {
        let (parts, body) = request.into_parts();
        require_json(&parts.headers)?;
        let bytes = read_body(body, shared.config.body_timeout).await?;
        if bytes.iter().all(u8::is_ascii_whitespace) {
            return Err(Problem::malformed("the body is empty, JSON is needed").into());
        }
        Ok(Self(read_json(&bytes)?))
    }
}

/// A JSON body that may be left out.
pub(crate) struct OptionalJson<T>(pub(crate) T);

impl<T: DeserializeOwned + Default> FromRequest<Arc<Shared>> for OptionalJson<T> {
    type Rejection = Refusal;

    async fn from_request(request: Request, shared: &Arc<Shared>) -> Result<Self, Refusal> {
        let (parts, body) = request.into_parts();
        if body.is_end_stream() {
            return Ok(Self(T::default()));
        }
        let bytes = read_body(body, shared.config.body_timeout).await?;
        if bytes.is_empty() {
            return Ok(Self(T::default()));
        }
        require_json(&parts.headers)?;
        Ok(Self(read_json(&bytes)?))
    }
}

/// The version that `If-Match` names, if it names one.
pub(crate) struct IfMatch(pub(crate) Option<u64>);

impl FromRequestParts<Arc<Shared>> for IfMatch {
    type Rejection = Refusal;

    async fn from_request_parts(parts: &mut Parts, _: &Arc<Shared>) -> Result<Self, Refusal> {
        let Some(value) = parts.headers.get(header::IF_MATCH) else { return Ok(Self(None)) };
        let text = value.to_str().unwrap_or_default().trim();
        if text == "*" {
            return Ok(Self(None));
        }
        // An entity tag of another form can be read, and is not the version of anything here.
        let quoted = text.strip_prefix('"').and_then(|rest| rest.strip_suffix('"'));
        match quoted {
            Some(tag) => tag.parse().map(|version| Self(Some(version))).map_err(|_| {
                Problem::new(ProblemKind::PreconditionFailed, "`If-Match` names no version of this").into()
            }),
            None => Err(Problem::malformed("`If-Match` holds one entity tag such as \"3\", or *").into()),
        }
    }
}

pub(crate) fn require_json(headers: &HeaderMap) -> Result<(), Problem> {
    let unsupported = |message| Err(Problem::new(ProblemKind::UnsupportedMediaType, message));
    let Some(value) = headers.get(header::CONTENT_TYPE) else {
        return unsupported("the body needs `Content-Type: application/json`");
    };
    let media = value.to_str().unwrap_or_default().split(';').next().unwrap_or_default().trim();
    let suffix = |media: &str| media.len() > 5 && media[media.len() - 5..].eq_ignore_ascii_case("+json");
    if media.eq_ignore_ascii_case("application/json") || (media.is_ascii() && suffix(media)) {
        Ok(())
    } else {
        unsupported("only JSON is read here, `Content-Type: application/json`")
    }
}

/// Reads a body whose size its owner has bounded.
pub(crate) async fn read_body(body: Body, timeout: Duration) -> Result<Bytes, Problem> {
    match runtime::within(timeout, body.collect()).await {
        Ok(Ok(collected)) => Ok(collected.to_bytes()),
        Ok(Err(error)) => Err(body_problem(&error)),
        Err(_) => Err(Problem::malformed("the body took too long to arrive")),
    }
}

pub(crate) fn too_large() -> Problem {
    Problem::new(ProblemKind::TooLarge, "the body is larger than the limit")
}

/// Why a body could not be read to its end.
pub(crate) fn body_problem(error: &axum::Error) -> Problem {
    if is_over_limit(error) { too_large() } else { Problem::malformed("the body broke off") }
}

fn is_over_limit(error: &axum::Error) -> bool {
    let mut source: Option<&(dyn std::error::Error + 'static)> = Some(error);
    while let Some(error) = source {
        if error.is::<LengthLimitError>() {
            return true;
        }
        source = error.source();
    }
    false
}

/// Reads JSON: 400 for what is none, 422 with the field's path for what is wrong in it.
pub(crate) fn read_json<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, Problem> {
    // A list would be taken for the fields in the order in which they happen to be declared.
    if bytes.iter().find(|b| !b.is_ascii_whitespace()) != Some(&b'{') {
        return Err(match serde_json::from_slice::<Value>(bytes) {
            Ok(_) => Problem::invalid("", "the body has to be a JSON object"),
            Err(error) => Problem::malformed(format!("the body is not JSON: {error}")),
        });
    }
    decode(bytes)
}

/// Reads JSON of any kind, as strictly as [`Strict`] is.
pub(crate) fn decode<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, Problem> {
    let mut decoder = serde_json::Deserializer::from_slice(bytes);
    let value = serde_path_to_error::deserialize(Strict::new(&mut decoder)).map_err(|error| {
        let path = error.path().to_string();
        let inner = error.into_inner();
        let text = inner.to_string();
        if inner.is_data() {
            field_problem(&path, &without_position(&text))
        } else if text.starts_with("number out of range") {
            // Right by the grammar; of a size that no number here has.
            field_problem(&path, "is out of the range of numbers")
        } else {
            Problem::malformed(format!("the body is not JSON: {text}"))
        }
    })?;
    decoder.end().map_err(|error| Problem::malformed(format!("the body is not JSON: {error}")))?;
    Ok(value)
}

/// Reads what has been read as JSON already.
pub(crate) fn from_value<T: DeserializeOwned>(value: Value) -> Result<T, Problem> {
    serde_path_to_error::deserialize(value)
        .map_err(|error| field_problem(&error.path().to_string(), &error.inner().to_string()))
}

/// A problem with the field at a decoder's path. A field that is missing or there twice is
/// named though the path ends above it.
fn field_problem(path: &str, detail: &str) -> Problem {
    let path = if path == "." || path == "?" { "" } else { path };
    let named = |says: &str| detail.strip_prefix(says).and_then(|rest| rest.strip_suffix('`'));
    let field = match named("missing field `").or_else(|| named("duplicate field `")) {
        Some(name) if path.is_empty() => name.to_owned(),
        Some(name) => format!("{path}.{name}"),
        None => path.to_owned(),
    };
    let detail = match field.as_str() {
        name if !name.is_empty() && named("missing field `").is_some() => "is required".to_owned(),
        _ => in_plain_words(detail).chars().take(1000).collect(),
    };
    Problem::invalid(field.chars().take(256).collect::<String>(), detail)
}

/// What the decoder says without where it stood, which is of no use where the field has a name.
fn without_position(text: &str) -> String {
    text.rsplit_once(" at line ").map_or(text, |(before, _)| before).to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Outer {
        #[allow(dead_code, reason = "only its reading is tested")]
        inner: Inner,
    }

    #[derive(Debug, Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Inner {
        #[allow(dead_code, reason = "only its reading is tested")]
        n: u8,
    }

    #[test]
    fn what_is_wrong_in_json_is_named_by_its_path() {
        for (text, field) in [
            (r#"{"inner": {"n": "x"}}"#, "inner.n"),
            (r#"{"inner": {"n": 300}}"#, "inner.n"),
            (r#"{"inner": {"n": 1, "m": 2}}"#, "inner.m"),
            (r#"{"inner": {}}"#, "inner.n"),
            ("{}", "inner"),
            (r#"{"outer": 1}"#, "outer"),
        ] {
            let problem = read_json::<Outer>(text.as_bytes()).unwrap_err();
            assert_eq!((problem.status(), problem.field.as_deref()), (422, Some(field)), "{text}: {problem}");
            assert!(!problem.message.contains("at line"), "{problem}");
        }
    }

    #[test]
    fn what_is_wrong_is_said_without_the_names_of_types_in_code() {
        for (text, says) in [
            (r#"{"inner": 3}"#, "inner: invalid type: integer `3`, expected an object"),
            (
                r#"{"inner": {"n": 300}}"#,
                "inner.n: invalid value: integer `300`, expected a whole number from 0 to 255",
            ),
            (r#"{"inner": {}}"#, "inner.n: is required"),
        ] {
            assert_eq!(read_json::<Outer>(text.as_bytes()).unwrap_err().message, says);
        }
        let problem = read_query::<PageQuery>("limit=x").unwrap_err();
        assert_eq!(problem.message, "limit: has to be a whole number");
    }

    #[test]
    fn what_is_not_json_is_malformed() {
        for text in ["{", "", "{} x", "\u{feff}{}", &"[".repeat(500)] {
            let problem = read_json::<Value>(text.as_bytes()).unwrap_err();
            assert_eq!(problem.status(), 400, "{text}");
        }
        assert_eq!(read_json::<Value>(b"\"\xff\"").unwrap_err().status(), 400);
    }

    #[test]
    fn a_body_is_an_object() {
        #[derive(Debug, Default, Deserialize)]
        #[serde(default)]
        struct Pair {
            #[allow(dead_code, reason = "only its reading is tested")]
            a: String,
        }
        for text in [r#"["text"]"#, "[]", "null", "3", r#""text""#] {
            let problem = read_json::<Pair>(text.as_bytes()).unwrap_err();
            assert_eq!(problem.status(), 422, "{text}");
            assert!(problem.message.contains("has to be a JSON object"), "{text}: {problem}");
        }
    }

    #[test]
    fn wrong_parameters_are_named() {
        for (query, field) in
            [("limit=x", "limit"), ("limit=-1", "limit"), ("limt=1", "limt"), ("limit=1&limit=2", "limit")]
        {
            let problem = read_query::<PageQuery>(query).unwrap_err();
            assert_eq!(
                (problem.status(), problem.field.as_deref()),
                (422, Some(field)),
                "{query}: {problem}"
            );
        }
        assert_eq!(read_query::<PageQuery>("limit=5&cursor=a%20b").unwrap().cursor.as_deref(), Some("a b"));
    }
}
