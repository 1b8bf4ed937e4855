//! Conditional requests: `If-None-Match` against the `ETag` of an answer (RFC 9110, 13.1.2).

use http::{HeaderMap, HeaderValue, Method, Response, StatusCode, header};

use crate::body::AnswerBody;

/// What a client that reads says that it has already.
pub(crate) fn known(method: &Method, headers: &HeaderMap) -> Option<HeaderValue> {
    let reads = matches!(*method, Method::GET | Method::HEAD);
    headers.get(header::IF_NONE_MATCH).filter(|_| reads).cloned()
}

/// Leaves the body out where the client has it.
pub(crate) fn leave_out(response: &mut Response<AnswerBody>, known: &HeaderValue) {
    let Some(tag) = response.headers().get(header::ETAG).and_then(|tag| tag.to_str().ok()) else { return };
    if response.status() != StatusCode::OK || !names(known, tag) {
        return;
    }
    *response.status_mut() = StatusCode::NOT_MODIFIED;
    *response.body_mut() = AnswerBody::whole(bytes::Bytes::new());
    let headers = response.headers_mut();
    headers.remove(header::CONTENT_TYPE);
    headers.remove(header::CONTENT_LENGTH);
}

/// Whether a list of entity tags has this one, compared weakly, or is `*`.
fn names(list: &HeaderValue, tag: &str) -> bool {
    let strong = |tag: &str| tag.trim().trim_start_matches("W/").to_owned();
    let tag = strong(tag);
    list.to_str().is_ok_and(|list| list.split(',').any(|one| one.trim() == "*" || strong(one) == tag))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tags_are_found_in_a_list_and_compared_weakly() {
        for (list, found) in [
            ("\"3\"", true),
            ("W/\"3\"", true),
            ("\"1\", \"3\"", true),
            ("*", true),
            ("\"33\"", false),
            ("3", false),
            ("", false),
        ] {
            assert_eq!(names(&HeaderValue::from_static(list), "\"3\""), found, "{list}");
        }
    }
}
