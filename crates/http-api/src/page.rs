//! Pages for people: the same content as HTML for a browser and as JSON for everything else.

use axum::body::Body;
use axum::response::Response;
use http::{HeaderMap, HeaderValue, header};
use serde::Serialize;
use serde_json::Value;
use utoipa::ToSchema;

use crate::envelope::{Answer, NO_STORE, Outcome};

const HTML: HeaderValue = HeaderValue::from_static("text/html; charset=utf-8");
/// Nothing from elsewhere, nothing inline, no frames.
const CONTENT_SECURITY: HeaderValue = HeaderValue::from_static(
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self' data:; \
     base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
);

/// A page.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Tour {
    /// What it is about.
    pub(crate) title: String,
    /// A few sentences.
    pub(crate) about: String,
    /// What to try, in this order.
    pub(crate) steps: Vec<Step>,
    /// The host as it stands.
    pub(crate) live: Value,
    /// Where to go on.
    pub(crate) links: Vec<Link>,
}

/// Something to try.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Step {
    /// What it does.
    pub(crate) title: String,
    /// The command.
    pub(crate) command: String,
}

/// Where to go on.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Link {
    /// The path.
    pub(crate) path: &'static str,
    /// What is there.
    pub(crate) title: &'static str,
}

impl Tour {
    pub(crate) fn new(title: &str, about: &str) -> Self {
        Self {
            title: title.to_owned(),
            about: about.to_owned(),
            steps: Vec::new(),
            live: Value::Null,
            links: Vec::new(),
        }
    }

    pub(crate) fn step(mut self, title: &str, command: impl Into<String>) -> Self {
        self.steps.push(Step { title: title.to_owned(), command: command.into() });
        self
    }

    pub(crate) fn link(mut self, path: &'static str, title: &'static str) -> Self {
        self.links.push(Link { path, title });
        self
    }

    pub(crate) fn live(mut self, live: Value) -> Self {
        self.live = live;
        self
    }

    /// HTML for a browser, JSON otherwise.
    pub(crate) fn answer(&self, headers: &HeaderMap) -> Result<Response, crate::envelope::Refusal> {
        use axum::response::IntoResponse;
        if wants_html(headers) {
            return Ok(html(self.to_html()));
        }
        let answer: Outcome = Answer::ok(self);
        Ok(answer?.into_response())
    }

    fn to_html(&self) -> String {
        let mut page = String::with_capacity(4096);
        let title = escaped(&self.title);
        page.push_str("<!doctype html>\n<html lang=\"en\">\n<meta charset=\"utf-8\">\n");
        page.push_str("<meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n");
        page.push_str(&format!(
            "<title>{title}</title>\n<link rel=\"stylesheet\" href=\"/docs/style.css\">\n<nav>"
        ));
        for Link { path, title } in &self.links {
            page.push_str(&format!("<a href=\"{}\">{}</a>", escaped(path), escaped(title)));
        }
        page.push_str(&format!("</nav>\n<h1>{title}</h1>\n<p>{}</p>\n", escaped(&self.about)));
        for Step { title, command } in &self.steps {
            page.push_str(&format!("<h2>{}</h2>\n<pre>{}</pre>\n", escaped(title), escaped(command)));
        }
        if !self.live.is_null() {
            let live = serde_json::to_string_pretty(&self.live).unwrap_or_default();
            page.push_str(&format!("<h2>Right now</h2>\n<pre>{}</pre>\n", escaped(&live)));
        }
        page.push_str("</html>\n");
        page
    }
}

/// An HTML page with the headers that keep it to itself.
pub(crate) fn html(page: impl Into<Body>) -> Response {
    let mut response = Response::new(page.into());
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HTML);
    headers.insert(header::CACHE_CONTROL, NO_STORE);
    headers.insert(header::CONTENT_SECURITY_POLICY, CONTENT_SECURITY);
    headers.insert(header::X_FRAME_OPTIONS, HeaderValue::from_static("DENY"));
    headers.insert(header::REFERRER_POLICY, HeaderValue::from_static("no-referrer"));
    headers.insert(header::VARY, HeaderValue::from_static("accept"));
    response
}

/// Whether HTML is named and not liked less than JSON. `curl`, which takes anything, gets JSON.
pub(crate) fn wants_html(headers: &HeaderMap) -> bool {
    let accept = headers.get(header::ACCEPT).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let quality = |media: &str| {
        accept.split(',').take(32).find_map(|range| {
            let mut parts = range.split(';').map(str::trim);
            let named = parts.next().is_some_and(|name| name.eq_ignore_ascii_case(media));
            let q =
                parts.find_map(|part| part.strip_prefix("q=")).map_or(1.0, |q| q.parse().unwrap_or(0.0_f32));
            named.then_some(q)
        })
    };
    quality("text/html").is_some_and(|html| html > 0.0 && html >= quality("application/json").unwrap_or(0.0))
}

fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&#39;"),
            c => out.push(c),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_browser_gets_html_and_a_program_gets_json() {
        for (accept, html) in [
            ("text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8", true),
            ("*/*", false),
            ("application/json", false),
            ("application/json, text/html;q=0.5", false),
            ("text/html;q=0", false),
            ("", false),
        ] {
            let headers = HeaderMap::from_iter([(header::ACCEPT, HeaderValue::from_static(accept))]);
            assert_eq!(wants_html(&headers), html, "{accept}");
        }
    }

    #[test]
    fn what_people_named_does_not_become_markup() {
        let page = Tour::new("<b>", "a & b").step("'", "\"").live(json!({"name": "<script>"})).to_html();
        assert!(!page.contains("<b>") && !page.contains("<script>"), "{page}");
        assert!(page.contains("&lt;script&gt;"));
    }
}
