//! How long requests took, by route.

use std::cell::RefCell;
use std::collections::HashMap;
use std::time::Duration;

use http::{Method, StatusCode};
use metrics::Histogram;

const NAME: &str = "http_server_request_duration_seconds";

/// The series of one route, as they come up: method and status of each.
type Series = Vec<(&'static str, StatusCode, Histogram)>;

thread_local! {
    /// The recorder makes a series out of strings and looks it up by them; a thread asks for each once.
    static KNOWN: RefCell<HashMap<Box<str>, Series>> = RefCell::new(HashMap::new());
}

/// How many routes a thread remembers the series of. Routes beyond are looked up each time.
const ROUTES_MAX: usize = 1024;

/// Records a request. Labels are those of OpenTelemetry's semantic conventions; the route is a template
/// and never a path, so that the number of series is bounded by what is mounted.
pub(crate) fn record(method: &Method, route: &str, status: StatusCode, took: Duration) {
    let method = known_method(method);
    KNOWN.with_borrow_mut(|known| {
        if let Some(series) = known.get_mut(route) {
            let found = series.iter().find(|(m, s, _)| *m == method && *s == status);
            if let Some((_, _, histogram)) = found {
                histogram.record(took);
            } else {
                let histogram = histogram(method, route, status);
                histogram.record(took);
                series.push((method, status, histogram));
            }
            return;
        }
        let histogram = histogram(method, route, status);
        histogram.record(took);
        if known.len() < ROUTES_MAX {
            known.insert(route.into(), vec![(method, status, histogram)]);
        }
    });
}

fn histogram(method: &'static str, route: &str, status: StatusCode) -> Histogram {
    metrics::histogram!(
        NAME,
        "http_request_method" => method,
        "http_route" => route.to_owned(),
        "http_response_status_code" => status.as_str().to_owned(),
        "url_scheme" => "http",
    )
}

/// The method if it is one that the conventions know, so that a client cannot make up labels.
fn known_method(method: &Method) -> &'static str {
    match *method {
        Method::GET => "GET",
        Method::HEAD => "HEAD",
        Method::POST => "POST",
        Method::PUT => "PUT",
        Method::DELETE => "DELETE",
        Method::PATCH => "PATCH",
        Method::OPTIONS => "OPTIONS",
        Method::CONNECT => "CONNECT",
        Method::TRACE => "TRACE",
        _ => "_OTHER",
    }
}
