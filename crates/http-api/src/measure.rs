//! How long requests took, by route.

use std::cell::RefCell;
use std::collections::HashMap;
use std::time::Duration;

use http::{Method, StatusCode};
use metrics::Histogram;

const NAME: &str = "http_server_request_duration_seconds";

/// The series of one route, as they come up: method and status of each.
type Series = Vec<(&'static str, StatusCode, Histogram)>;

/// The series that a thread has asked for. The recorder makes them out of strings and looks them up by them.
#[derive(Default)]
struct Known {
    routes: HashMap<Box<str>, Series>,
    /// The one of the latest request, which as a rule is that of the next: it is found without a hash.
    latest: Option<(Box<str>, &'static str, StatusCode, Histogram)>,
}

thread_local! {
    static KNOWN: RefCell<Known> = RefCell::default();
}

/// How many routes a thread remembers the series of. Routes beyond are looked up each time.
const ROUTES_MAX: usize = 1024;

/// Records a request. Labels are those of OpenTelemetry's semantic conventions; the route is a template
/// and never a path, so that the number of series is bounded by what is mounted.
pub(crate) fn record(method: &Method, route: &str, status: StatusCode, took: Duration) {
    let method = known_method(method);
    KNOWN.with_borrow_mut(|known| {
        if let Some((r, m, s, histogram)) = &known.latest
            && (&**r, *m, *s) == (route, method, status)
        {
            histogram.record(took);
            return;
        }
        let histogram = known.series(method, route, status);
        histogram.record(took);
        known.latest = Some((route.into(), method, status, histogram));
    });
}

impl Known {
    fn series(&mut self, method: &'static str, route: &str, status: StatusCode) -> Histogram {
        let is_full = self.routes.len() >= ROUTES_MAX;
        let Some(series) = self.routes.get_mut(route) else {
            let histogram = histogram(method, route, status);
            if !is_full {
                self.routes.insert(route.into(), vec![(method, status, histogram.clone())]);
            }
            return histogram;
        };
        if let Some((_, _, histogram)) = series.iter().find(|(m, s, _)| (*m, *s) == (method, status)) {
            return histogram.clone();
        }
        let histogram = histogram(method, route, status);
        series.push((method, status, histogram.clone()));
        histogram
    }
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

/// A WebSocket client, counted for as long as it is there.
pub(crate) struct WebSocketClient(());

impl WebSocketClient {
    pub(crate) fn new() -> Self {
        metrics::gauge!("websocket_clients").increment(1.0);
        Self(())
    }
}

impl Drop for WebSocketClient {
    fn drop(&mut self) {
        metrics::gauge!("websocket_clients").decrement(1.0);
    }
}

/// Counts a WebSocket that ended, by why it did.
pub(crate) fn websocket_closed(reason: &'static str) {
    metrics::counter!("websocket_closed_total", "reason" => reason).increment(1);
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
